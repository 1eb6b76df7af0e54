"""What is known of a run besides its measurements: the facts in ``run.json``, and how they are read."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

SCHEMA_VERSION = 1
RUN_FILE, MEASUREMENTS_FILE = "run.json", "measurements.parquet"


class RecordError(RuntimeError):
    """A record cannot be written or read; the message is one line for the user."""


class RunSchemaError(RecordError):
    """A run was written under another schema version than this one."""


class RunBusy(RecordError):
    """Another process is writing this run; ``path`` is its folder."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class RunExists(RecordError):
    """The run is already there, complete; ``path`` is its folder."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, kw_only=True)
class Video:
    """The files of one sparse video, as paths below the run's folder.

    Args:
        sparse: FFV1, lossless.
        preview: Its H.264 twin for people.
        dense_preview: H.264 of the dense twin; None where the run has none.
        frames, fps, height, width: Of the sparse video; pixels and frames per second.
        dense_key: The dense twin's in ``svg.store``; None where the run does not say.
    """

    prompt_id: str
    seed: int
    sparse: str
    preview: str | None
    dense_preview: str | None
    frames: int
    fps: float
    height: int
    width: int
    dense_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What ``run.json`` holds: everything about a run but its measurements and pixels."""

    run_id: str
    model: str
    method: str
    backend: str
    dense_backend: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    prompts: list[dict[str, str]]
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)
    experiment: str | None = None
    sweep: str | None = None
    status: Literal["complete", "failed"] = "complete"
    error: dict[str, str] | None = None
    created: str = ""
    config_hash: str = ""
    videos: list[Video] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    measurements_sha256: str | None = None
    checksum: str | None = None


# What records from before they stated it are read without.
_ADDED = {"sweep": None, "measurements_sha256": None, "checksum": None}
_FIELDS = tuple(name.name for name in fields(RunRecord))


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: keys sorted, no spaces.

    Raises:
        ValueError: If it holds something that JSON cannot say (an object, a NaN, an infinity).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a record holds plain numbers, strings, lists and dicts only: {error}") from None


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name a resolved configuration, whatever the order of its keys."""
    return hashlib.sha256(canonical_json(dict(config)).encode()).hexdigest()[:16]


def checksum(content: Mapping[str, Any]) -> str:
    """Return 16 hex digits over everything that ``run.json`` holds but themselves."""
    return config_hash({name: value for name, value in content.items() if name != "checksum"})


def read_run(path: str | Path) -> RunRecord:
    """Read the ``run.json`` of one run's folder.

    Raises:
        RecordError: If it is missing, damaged, changed by hand, or of another schema version.
    """
    facts = read_facts(path)
    return RunRecord(**{**facts, "videos": [Video(**video) for video in facts["videos"]]})


def read_facts(path: str | Path) -> dict[str, Any]:
    """Return what ``read_run`` does, and raise as it does, as plain values: in half the time."""
    file = os.path.join(path, RUN_FILE)
    try:
        with open(file, "rb") as stream:
            content = json.loads(stream.read())
    except FileNotFoundError:
        raise RecordError(f"{path} is not a run: it has no {RUN_FILE}") from None
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{file} is damaged: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RunSchemaError(
            f"{file} has schema_version {version}, this version reads {SCHEMA_VERSION}; read it with the version of "
            f"this project that wrote it"
        )
    facts = {**_ADDED, **content}
    missing = [name for name in _FIELDS if name not in facts]
    if missing or facts["status"] not in ("complete", "failed"):
        raise RecordError(f"{file} is damaged: it lacks {', '.join(missing) or 'a known status'}")
    if facts["run_id"] != os.path.basename(os.path.abspath(path)):
        raise RecordError(f"{path} holds run {facts['run_id']}; a run's folder must keep its name")
    if not _is_as_written(content):
        raise RecordError(f"{file} was changed after it was written: its content does not have the hash that it states")
    try:
        facts["videos"] = [dict(vars(Video(**video))) for video in facts["videos"]]
    except TypeError as error:
        raise RecordError(f"{file} is damaged: {error}") from None
    return {name: facts[name] for name in _FIELDS}


def _is_as_written(content: Mapping[str, Any]) -> bool:
    try:
        hashes = config_hash(content["config"]), checksum(content)
    except (TypeError, ValueError):
        return False
    return content["config_hash"] == hashes[0] and content.get("checksum") in (None, hashes[1])


def list_runs(runs_dir: str | Path) -> list[Path]:
    """Return the folders of all runs directly below ``runs_dir`` by name: complete, failed, damaged, and unreadable.

    What is still being written, or was when its process died, is not among them.

    Raises:
        RecordError: If ``runs_dir`` is no folder that can be read.
    """
    try:
        # What a file system keeps at its root for itself is no run, and only root may look into it.
        names = sorted(name for name in os.listdir(runs_dir) if not name.startswith(".") and name != "lost+found")
    except OSError as error:
        raise RecordError(f"runs_dir={runs_dir} cannot be read: {error.strerror}") from error
    files = (RUN_FILE, MEASUREMENTS_FILE)
    return [Path(runs_dir, name) for name in names if any(_may_be_file(f"{runs_dir}/{name}/{f}") for f in files)]


def _may_be_file(path: str) -> bool:
    """Return whether a path is a file, or stands where nothing may be looked at: such a run is not passed over."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
