"""The records of a run: one folder with its facts, its measurements and its videos, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from svg.atomic import Lock, LockHeldError, partial_folder, publish, storage_error, sweep, write_bytes

SCHEMA_VERSION = 1
RUN_FILE, MEASUREMENTS_FILE = "run.json", "measurements.parquet"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,199}")

# One row is one value: (column, type, whether it may be null), in the order of the file.
_COLUMNS: tuple[tuple[str, pa.DataType, bool], ...] = (
    ("run_id", pa.string(), False),
    ("model", pa.string(), False),
    ("method", pa.string(), False),
    ("backend", pa.string(), False),
    ("dense_backend", pa.string(), False),
    ("prompt_id", pa.string(), True),
    ("seed", pa.int64(), True),
    ("step", pa.int32(), True),
    ("layer", pa.int32(), True),
    ("head", pa.int32(), True),
    ("branch", pa.string(), True),
    ("frame", pa.int32(), True),
    ("quantity", pa.string(), False),
    ("protocol", pa.string(), True),
    ("unit", pa.string(), False),
    ("value", pa.float64(), True),
    ("n", pa.int64(), False),
    ("spread", pa.float64(), True),
    ("higher_is_better", pa.bool_(), True),
    ("status", pa.string(), False),
    ("reason", pa.string(), True),
)
MEASUREMENT_SCHEMA = pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in _COLUMNS])
_RUN_COLUMNS = ("run_id", "model", "method", "backend", "dense_backend")


class RecordError(RuntimeError):
    """A record cannot be written or read; the message is one line for the user."""


class RunBusy(RecordError):
    """Another process is writing this run."""


class RunExists(RecordError):
    """The run is already there, complete; ``path`` is its folder."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured value, or why there is none.

    Args:
        quantity: What was measured, in snake case with its unit where it has one: ``psnr_db``, ``generation_s``.
        unit: Unit of ``value`` and ``spread``; ``"1"`` for a pure number.
        value: The number, finite; None unless ``status`` is ``"ok"``.
        prompt_id, seed, step, layer, head, branch, frame: What the value belongs to; None where it does not apply.
            Indices count from 0.
        protocol: Which definition of the quantity, where there are several: ``"standard"``, ``"token"``.
        n: How many samples stand behind ``value``; 0 where nothing was measured.
        spread: Their standard deviation; None where unknown.
        higher_is_better: Which way is better; None where neither is.
        status: ``"ok"``; ``"infinite"`` (PSNR of identical frames); ``"unavailable"`` (this machine cannot measure
            it); ``"failed"``.
        reason: Why there is no value; needed where the status is ``"unavailable"`` or ``"failed"``.

    Raises:
        ValueError: If the fields contradict one another.
    """

    quantity: str
    unit: str
    value: float | None
    prompt_id: str | None = None
    seed: int | None = None
    step: int | None = None
    layer: int | None = None
    head: int | None = None
    branch: str | None = None
    frame: int | None = None
    protocol: str | None = None
    n: int = 1
    spread: float | None = None
    higher_is_better: bool | None = None
    status: Literal["ok", "unavailable", "infinite", "failed"] = "ok"
    reason: str | None = None

    def __post_init__(self) -> None:
        if not self.quantity or not self.unit:
            raise ValueError(f"a measurement needs a quantity and a unit, got {self.quantity!r} and {self.unit!r}")
        if self.status not in ("ok", "unavailable", "infinite", "failed"):
            raise ValueError(
                f"{self.quantity}: status {self.status!r} is not one of ok, unavailable, infinite, failed"
            )
        if (self.value is not None) != (self.status == "ok"):
            raise ValueError(f"{self.quantity}: value {self.value} with status {self.status!r}; only ok has a value")
        if self.status in ("unavailable", "failed") and not self.reason:
            raise ValueError(f"{self.quantity}: status {self.status!r} needs a reason")
        for name in ("value", "spread"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.quantity}: {name} is {number}; a record holds finite numbers only")


@dataclass(frozen=True, kw_only=True)
class Video:
    """The files of one sparse video, as paths below the run's folder.

    Args:
        sparse: FFV1, lossless.
        preview: Its H.264 twin for people.
        dense_preview: H.264 of the dense twin; None where the run has none.
        frames, fps, height, width: Of the sparse video; pixels and frames per second.
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
    status: Literal["complete", "failed"] = "complete"
    error: dict[str, str] | None = None
    created: str = ""
    config_hash: str = ""
    videos: list[Video] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


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


@dataclass(frozen=True)
class VideoPaths:
    """Where a run expects the files of one video while it is being written."""

    sparse: Path
    preview: Path
    dense_preview: Path


class RunWriter:
    """Writes one run; inside the ``with`` block add rows and videos, at its end the run appears whole.

    An error inside the block is recorded, as a run of status ``failed`` with what was measured until then, and goes
    on its way. A full disk, and a person's interrupt, leave no run. A complete run is never replaced, a failed one is.

    Args:
        runs_dir: Folder of all runs; made if missing.
        run_id: Name of the run's folder: letters, digits and ``._+=,-``.
        model, method, backend, dense_backend: Names, as they stand in every row.
        config: The resolved configuration, of plain values.
        provenance: From ``svg.provenance.collect``.
        prompts: ``{"prompt_id": ..., "text": ...}`` each.
        seeds: Seeds of the generations.
        overrides: The command line's overrides.
        experiment: Name of the experiment, if the run belongs to one.

    Raises:
        RunExists: On entry, if the run is there and complete.
        RunBusy: On entry, if another process writes it.
        RecordError: On entry or at the end, if the disk refuses or something else stands at the run's path.
        ValueError: If ``run_id`` or ``config`` cannot be recorded.
    """

    def __init__(
        self,
        runs_dir: str | Path,
        run_id: str,
        *,
        model: str,
        method: str,
        backend: str,
        dense_backend: str,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any],
        prompts: Sequence[Mapping[str, str]],
        seeds: Sequence[int],
        overrides: Sequence[str] = (),
        experiment: str | None = None,
    ) -> None:
        _check_name("run_id", run_id)
        self.path = Path(runs_dir) / run_id
        self._record = RunRecord(
            run_id=run_id,
            model=model,
            method=method,
            backend=backend,
            dense_backend=dense_backend,
            config=dict(config),
            provenance=dict(provenance),
            prompts=[dict(prompt) for prompt in prompts],
            seeds=list(seeds),
            overrides=list(overrides),
            experiment=experiment,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            config_hash=config_hash(config),
        )
        # Found now, not after an hour of generation.
        canonical_json(asdict(self._record))
        self._rows: list[Measurement] = []
        self._videos: list[Video] = []
        self._partial = partial_folder(self.path)
        self._lock = Lock(self.path.with_name(f".lock-{run_id}"))

    def __enter__(self) -> RunWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._check_vacant()
            sweep(self.path)
            (self._partial / "videos").mkdir(parents=True)
        except LockHeldError as error:
            raise RunBusy(
                f"runs_dir={self.path.parent}: run {self._record.run_id} is being written by {error.holder} "
                f"({self._lock.path}); wait for it or choose another runs_dir"
            ) from None
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise self._refusal(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            full = storage_error(error)
            if full is not None:
                raise self._refusal(full) from error
            if error is None or isinstance(error, Exception):
                self._commit(error)
        except OSError as refusal:
            raise self._refusal(refusal) from refusal
        finally:
            self._discard()

    def add(self, measurement: Measurement) -> None:
        """Add one row."""
        self._rows.append(measurement)

    def extend(self, measurements: Iterable[Measurement]) -> None:
        """Add many rows."""
        self._rows.extend(measurements)

    def video_paths(self, prompt_id: str, seed: int) -> VideoPaths:
        """Return where to write the files of one video before ``add_video`` is told of it."""
        _check_name("prompt_id", prompt_id)
        stem = f"{prompt_id}-s{seed}"
        folder = self._partial / "videos"
        return VideoPaths(folder / f"{stem}.mkv", folder / f"{stem}.mp4", folder / f"{stem}.dense.mp4")

    def add_video(self, prompt_id: str, seed: int, *, frames: int, fps: float, height: int, width: int) -> Video:
        """Record the files at ``video_paths``: the sparse video and whichever previews are there.

        Raises:
            ValueError: If the sparse video is not there or is empty.
        """
        paths = self.video_paths(prompt_id, seed)
        present = {name: _is_filled(path) for name, path in asdict(paths).items()}
        if not present["sparse"]:
            raise ValueError(f"the lossless video of prompt {prompt_id}, seed {seed} was not written to {paths.sparse}")
        names = {
            name: path.relative_to(self._partial).as_posix() if present[name] else None
            for name, path in asdict(paths).items()
        }
        video = Video(
            prompt_id=prompt_id, seed=seed, **names, frames=frames, fps=float(fps), height=height, width=width
        )
        self._videos.append(video)
        return video

    def _commit(self, error: Exception | None) -> None:
        record = replace(self._record, videos=self._videos)
        if error is not None:
            message = " ".join(str(error).split())[:2000]
            record = replace(record, status="failed", error={"type": type(error).__name__, "message": message})
        write_bytes(self._partial / MEASUREMENTS_FILE, _parquet(record, self._rows))
        text = json.dumps(asdict(record), indent=2, ensure_ascii=False, allow_nan=False)
        # What UTF-8 cannot say (a stray byte of the command line) becomes JSON's own escape.
        write_bytes(self._partial / RUN_FILE, text.encode("utf-8", errors="backslashreplace"))
        publish(self._partial, self.path)

    def _check_vacant(self) -> None:
        if not self.path.exists() and not self.path.is_symlink():
            return
        if not (self.path / RUN_FILE).is_file():
            raise RecordError(f"{self.path} holds something that is not a run; choose another runs_dir or run_id")
        if read_run(self.path).status == "complete":
            raise RunExists(f"run {self._record.run_id} is already complete in {self.path}", self.path)

    def _refusal(self, error: OSError) -> RecordError:
        why = error.strerror or str(error)
        return RecordError(f"runs_dir={self.path.parent}: run {self._record.run_id} cannot be written: {why}")

    def _discard(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.release()


def read_run(path: str | Path) -> RunRecord:
    """Read the ``run.json`` of one run's folder.

    Raises:
        RecordError: If it is missing, damaged, or of another schema version.
    """
    file = Path(path) / RUN_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is not a run: it has no {RUN_FILE}") from None
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{file} is damaged: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{file} has schema_version {version}, this version reads {SCHEMA_VERSION}; read it with the version of "
            f"this project that wrote it"
        )
    missing = [name.name for name in fields(RunRecord) if name.name not in content]
    if missing or content["status"] not in ("complete", "failed"):
        raise RecordError(f"{file} is damaged: it lacks {', '.join(missing) or 'a known status'}")
    known = {name.name: content[name.name] for name in fields(RunRecord)}
    try:
        return RunRecord(**{**known, "videos": [Video(**video) for video in known["videos"]]})
    except TypeError as error:
        raise RecordError(f"{file} is damaged: {error}") from None


def list_runs(runs_dir: str | Path) -> list[Path]:
    """Return the folders of all finished runs directly below ``runs_dir``, complete and failed, by name.

    Raises:
        RecordError: If ``runs_dir`` is no folder that can be read.
    """
    try:
        return sorted(file.parent for file in Path(runs_dir).glob(f"[!.]*/{RUN_FILE}")) if _listable(runs_dir) else []
    except OSError as error:
        raise RecordError(f"runs_dir={runs_dir} cannot be read: {error.strerror}") from error


def read_measurements(path: str | Path) -> pa.Table:
    """Return the rows of one run's folder, as a table of ``MEASUREMENT_SCHEMA``.

    Raises:
        RecordError: If they are missing, damaged, or of another shape.
    """
    file = Path(path) / MEASUREMENTS_FILE
    try:
        table = pq.read_table(io.BytesIO(file.read_bytes()))
    except FileNotFoundError:
        raise RecordError(f"{path} is half a run: it has no {MEASUREMENTS_FILE}") from None
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{file} is damaged: {' '.join(str(error).split())}") from None
    if not table.schema.equals(MEASUREMENT_SCHEMA):
        raise RecordError(f"{file} has other columns than schema_version {SCHEMA_VERSION}")
    return table


def _listable(runs_dir: str | Path) -> bool:
    next(Path(runs_dir).iterdir(), None)
    return True


def _parquet(record: RunRecord, rows: Sequence[Measurement]) -> bytes:
    shared = {name: [getattr(record, name)] * len(rows) for name in _RUN_COLUMNS}
    own = {name: [getattr(row, name) for row in rows] for name, _, _ in _COLUMNS if name not in _RUN_COLUMNS}
    sink = io.BytesIO()
    pq.write_table(pa.table({**shared, **own}, schema=MEASUREMENT_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _check_name(setting: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{setting} is {name!r}; it must be a file name of letters, digits and ._+=,- (200 at most)")


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
