"""The dense backend that ``dense_backend=auto`` means: the fastest one of this machine, measured once, kept on disk."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from experiments.building import build_dense_backend
from svg import backends, provenance
from svg.atomic import Lock, write_bytes
from svg.code_hash import code_hash
from svg.results import Measurement, config_hash

# What a candidate says that found too little memory, which another process may have held.
OUT_OF_MEMORY = "OutOfMemoryError"
# Choices of this process that no file could keep, so that all runs of a sweep take the same backend.
_unkept: dict[Path, DenseChoice] = {}


@dataclass(frozen=True)
class Timed:
    """One candidate: the median of its calls in milliseconds, or why it has none."""

    backend: str
    latency_ms: float | None
    n: int
    reason: str


@dataclass(frozen=True)
class DenseChoice:
    """A dense backend, and how it was picked.

    Args:
        backend: The one that is taken.
        timings: Every candidate, fastest first; empty where the settings name the backend.
        source: When it was measured, and on which call.
    """

    backend: Any
    timings: tuple[Timed, ...] = ()
    source: str = ""

    def rows(self, key: Mapping[str, Any] | None = None) -> Iterator[Measurement]:
        """Yield a row for each candidate, with ``key`` in all of them; the run's ``dense_backend`` is the one taken."""
        for timed in self.timings:
            row: dict[str, Any] = {"quantity": "dense_call_ms", "unit": "ms", "higher_is_better": False}
            row |= {"backend": timed.backend, **(key or {})}
            if timed.latency_ms is None:
                yield Measurement(value=None, n=0, status="unavailable", reason=timed.reason, **row)
            else:
                yield Measurement(value=timed.latency_ms, n=timed.n, reason=self.source, **row)


def choose_fastest(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, cache_dir: str | Path | None = None
) -> DenseChoice:
    """Return the fastest dense backend of this machine, as a file says or as it is measured now.

    Processes that ask at once measure one after the other: the first one for all.

    Args:
        shape: ``(batch, num_heads, seq_len, head_dim)`` of one call.
        dtype: Its precision.
        device: Where it runs.
        cache_dir: Folder of the file; None: that of ``user_cache_dir``.

    Raises:
        ValueError: If none runs here, or there is too little memory to try.
    """
    key = _key(shape, dtype, device)
    path = Path(cache_dir or user_cache_dir()) / "dense_backends" / f"{config_hash(key)}.json"
    if path in _unkept:
        return _unkept[path]
    found = None
    try:
        with _alone(path):
            found = _read(path, key)
            if found is None:
                found = _measure(shape, dtype, device)
                if any(OUT_OF_MEMORY in timed.reason for timed in found.timings):
                    _unkept[path] = found
                else:
                    _write(path, key, found)
    except OSError as error:
        warnings.warn(
            f"cache_dir={path.parent.parent} cannot be used ({error.strerror}): every process measures anew which "
            f"dense backend is fastest; set cache_dir to a folder of yours",
            stacklevel=2,
        )
        found = _unkept[path] = found or _measure(shape, dtype, device)
    return found


def user_cache_dir() -> Path:
    """Return the project's cache folder: SVG_CACHE_DIR, or in XDG_CACHE_HOME, or where the system has the user's."""
    if given := os.environ.get("SVG_CACHE_DIR"):
        return Path(given)
    shared = os.environ.get("XDG_CACHE_HOME")
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return (Path(shared) if shared else home) / "sparse-videogen-bench"


def bucket(size: int) -> int:
    """Return the nearest power of the square root of two: sizes that are alike share a measurement."""
    return round(2 ** (round(2 * math.log2(size)) / 2))


def _key(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return everything that decides which backend is fastest."""
    batch, num_heads, seq_len, head_dim = shape
    return {
        "call": {"heads": bucket(batch * num_heads), "seq_len": bucket(seq_len), "head_dim": head_dim},
        "dtype": str(dtype),
        "machine": _machine(device.type),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "code": code_hash(*backends.time_dense_modules(device.type)),
    }


def _measure(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> DenseChoice:
    call = " x ".join(map(str, shape))
    try:
        timings = backends.time_dense(shape, dtype, device)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"dense_backend=auto: {device} has too little memory to try the dense backends on a call of {call}; name "
            f"one, such as dense_backend=sdpa, or make model.height, model.width or model.num_frames smaller"
        ) from error
    if timings[0].latency_ms is None:
        raise ValueError(f"dense_backend=auto: none runs on {device}: {timings[0].reason}")
    timed = tuple(Timed(one.backend.name, one.latency_ms, one.repeats, one.reason) for one in timings)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return DenseChoice(timings[0].backend, timed, f"measured {moment} on a call of {call}")


def _read(path: Path, key: Mapping[str, Any]) -> DenseChoice | None:
    """Return what a file holds; None where there is none, or with a warning where it is damaged, and then deleted."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != config_hash(content) or content["key"] != key:
            raise ValueError("its content does not have the hash that it states")
        timings = tuple(Timed(**timed) for timed in content["timings"])
        return DenseChoice(build_dense_backend(timings[0].backend), timings, content["source"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is damaged ({error}); the dense backends are measured again", stacklevel=2)
        path.unlink(missing_ok=True)
        return None


def _write(path: Path, key: Mapping[str, Any], found: DenseChoice) -> None:
    """Write the file in one step."""
    content = {"key": key, "timings": [vars(timed) for timed in found.timings], "source": found.source}
    unfinished = path.with_name(f".partial-{path.name}-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    write_bytes(unfinished, json.dumps(content | {"checksum": config_hash(content)}, indent=1).encode())
    os.replace(unfinished, path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process measures for the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_suffix(".lock"))
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


@cache
def _machine(device_type: str) -> dict[str, Any]:
    return provenance.hardware(device_type)
