"""Writes a run: one folder with its facts, its measurements and its videos, whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from svg.atomic import Lock, LockHeldError, partial_folder, publish, storage_error, sweep, write_bytes
from svg.results.record import (
    MEASUREMENTS_FILE,
    RUN_FILE,
    RecordError,
    RunBusy,
    RunExists,
    RunRecord,
    Video,
    canonical_json,
    checksum,
    config_hash,
    read_run,
)
from svg.results.rows import Measurement, sha256_of, to_parquet

# By how much the wall clock may gain or lose on the steady one during a run.
CLOCK_SLACK_S = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,199}")


@dataclass(frozen=True)
class VideoPaths:
    """Where a run expects the files of one video while it is being written."""

    sparse: Path
    preview: Path
    dense_preview: Path


class RunWriter:
    """Writes one run; inside the ``with`` block add rows and videos, at its end the run appears whole.

    An error inside the block is recorded, as a run of status ``failed`` with what was measured until then, and goes
    on its way. A full disk, and a person's interrupt, leave no run. A failed run is replaced; a complete one only where
    ``overwrite`` is asked for, and only by a complete one.

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
        sweep: Name of the sweep that makes the run, if one does.
        overwrite: Whether a run that is there and complete is replaced, once this one is complete too.

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
        sweep: str | None = None,
        overwrite: bool = False,
    ) -> None:
        _check_name("run_id", run_id)
        self.path = Path(runs_dir) / run_id
        self._began, self._began_monotonic = datetime.now(UTC), time.monotonic()
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
            sweep=sweep,
            created=self._began.isoformat(timespec="seconds"),
            config_hash=config_hash(config),
        )
        # Found now, not after an hour of generation.
        canonical_json(asdict(self._record))
        self._overwrite, self._replaces_complete = overwrite, False
        self._rows: list[Measurement] = []
        self._videos: list[Video] = []
        self._partial = partial_folder(self.path)
        self._lock = Lock(lock_path(self.path))

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            sweep(self.path)
            self._check_vacant()
            (self._partial / "videos").mkdir(parents=True)
        except LockHeldError as error:
            raise RunBusy(
                f"runs_dir={self.path.parent}: run {self._record.run_id} is being written by {error.holder} "
                f"({self._lock.path}); wait for it or choose another runs_dir",
                self.path,
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
            if full is None and (error is None or (isinstance(error, Exception) and not self._replaces_complete)):
                self._commit(error)
            elif full is not None and not isinstance(error, RecordError):
                raise self._refusal(full) from error
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

    def add_video(
        self,
        prompt_id: str,
        seed: int,
        *,
        frames: int,
        fps: float,
        height: int,
        width: int,
        dense_key: str | None = None,
    ) -> Video:
        """Record the files at ``video_paths``: the sparse video and whichever previews are there.

        ``dense_key`` is the dense twin's in ``svg.store``.

        Raises:
            ValueError: If the sparse video is not there or is empty.
        """
        paths = self.video_paths(prompt_id, seed)
        sparse = self._name(paths.sparse)
        if sparse is None:
            raise ValueError(f"the lossless video of prompt {prompt_id}, seed {seed} was not written to {paths.sparse}")
        video = Video(
            prompt_id=prompt_id,
            seed=seed,
            sparse=sparse,
            preview=self._name(paths.preview),
            dense_preview=self._name(paths.dense_preview),
            frames=frames,
            fps=float(fps),
            height=height,
            width=width,
            dense_key=dense_key,
        )
        self._videos.append(video)
        return video

    def _name(self, file: Path) -> str | None:
        """The name of a file below the run's folder; None if nothing was written there."""
        return file.relative_to(self._partial).as_posix() if file.is_file() and file.stat().st_size > 0 else None

    def _commit(self, error: Exception | None) -> None:
        record = replace(self._record, videos=self._videos)
        jump = (datetime.now(UTC) - self._began).total_seconds() - (time.monotonic() - self._began_monotonic)
        if abs(jump) > CLOCK_SLACK_S:
            # Its place among other runs is unknown, so that it stands apart from them.
            record = replace(record, provenance={**record.provenance, "clock_jump_s": round(jump, 1)})
        if error is not None:
            message = " ".join(str(error).split())[:2000]
            record = replace(record, status="failed", error={"type": type(error).__name__, "message": message})
        data = to_parquet(record, self._rows)
        record = replace(record, measurements_sha256=sha256_of(data))
        record = replace(record, checksum=checksum(asdict(record)))
        write_bytes(self._partial / MEASUREMENTS_FILE, data)
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
            if not self._overwrite:
                raise RunExists(f"run {self._record.run_id} is already complete in {self.path}", self.path)
            self._replaces_complete = True

    def _refusal(self, error: OSError) -> RecordError:
        why = error.strerror or str(error)
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(self.path.parent):
            why += f" ({error.filename})"
        return RecordError(f"runs_dir={self.path.parent}: run {self._record.run_id} cannot be written: {why}")

    def _discard(self) -> None:
        if self._lock.is_held:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.release()


def lock_path(path: Path) -> Path:
    """Return the file that whoever writes the run of this folder holds locked."""
    return path.with_name(f".lock-{path.name}")


def _check_name(setting: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{setting} is {name!r}; it must be a file name of letters, digits and ._+=,- (200 at most)")
