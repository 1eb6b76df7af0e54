"""What a sweep leaves of a job that is refused before its run begins: a failed run with the error, not a gap."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.entry import USER_ERRORS
from experiments.identity import Names
from experiments.schema import Config
from svg import provenance
from svg.atomic import Lock, LockHeldError, partial_folder
from svg.results import RecordError, RunWriter, config_hash, lock_path, read_run

# What decides what a run measures, as it was asked for: nothing of it has been looked up yet.
SETTINGS = (
    "seed",
    "seeds",
    "model",
    "method",
    "backend",
    "dense_backend",
    "compile",
    "prompts",
    "quality",
    "statistics",
    "device",
    "threads",
)
# The same of experiments.step_latency and experiments.video_latency alone.
STEP_SETTINGS = ("weights", "steps", "text_tokens", "temporal_share", "whole", "gpu")


@contextmanager
def recorded(config: Config, names: Names, run_id: str | None = None) -> Iterator[None]:
    """In a sweep, write a failed run where the block ends in an error that a user can cause; the error goes on.

    A block that ends well takes away what an earlier refusal of the same job left.

    Args:
        config: The job's settings.
        names: What they were picked from.
        run_id: The run's name where it is known; None: made of the model, the method and a hash of the settings.
    """
    try:
        yield
    except USER_ERRORS as error:
        if names.is_sweep:
            _write(asdict(config), names, run_id, error)
        raise
    _clear(Path(config.runs_dir) / _refused_id(asdict(config), names))


def record(config: DictConfig, names: Names, error: Exception) -> None:
    """Write a failed run of a job whose settings break a rule of their schema; none if they cannot be read at all."""
    with suppress(*USER_ERRORS):
        asked = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(asked, dict)
        _write({str(name): value for name, value in asked.items()}, names, None, error)


def _write(asked: Mapping[str, Any], names: Names, run_id: str | None, error: Exception) -> None:
    # A complete run of this name is worth more than the news that it cannot be made again; a disk that is full, or a
    # name that is none, would hide what the job itself says.
    with (
        suppress(*USER_ERRORS),
        RunWriter(
            asked["runs_dir"],
            run_id or _refused_id(asked, names),
            model=names.model,
            method=names.method,
            backend=str(asked["backend"].get("name")),
            dense_backend=asked["dense_backend"],
            config=_measured(asked),
            provenance=provenance.collect(),
            prompts=[],
            seeds=asked["seeds"],
            overrides=names.overrides,
            experiment=names.experiment,
            sweep=names.sweep,
        ),
    ):
        raise error


def _clear(path: Path) -> None:
    """Delete the failed run of an earlier refusal; one that is being written, or that cannot be read, is left alone."""
    if not (path / "run.json").is_file():
        return
    lock = Lock(lock_path(path))
    with suppress(LockHeldError, RecordError):
        lock.acquire()
        try:
            if read_run(path).status == "failed":
                # Gone in one step: no reader finds half of it.
                hidden = partial_folder(path)
                path.rename(hidden)
                shutil.rmtree(hidden)
        finally:
            lock.release()


def _measured(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asked[name] for name in (*SETTINGS, *STEP_SETTINGS) if name in asked}


def _refused_id(asked: Mapping[str, Any], names: Names) -> str:
    return f"{names.model}-{names.method}-refused-{config_hash(_measured(asked))[:8]}"
