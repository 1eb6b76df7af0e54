"""Keeps dense generations, so that every sparse run of a sweep is compared with one and the same twin."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svg.atomic import Lock, LockHeldError, partial_folder, publish, storage_error, sweep, write_bytes
from svg.results import RecordError, canonical_json
from svg.video import read_lossless, to_uint8, write_lossless

if TYPE_CHECKING:
    import torch

_META, _VIDEO, _LATENTS = "meta.json", "video.mkv", "latents.safetensors"


@dataclass(frozen=True)
class Entry:
    """One stored generation.

    Args:
        path: Its folder.
        meta: What was put with it: timings and whatever else its reader needs, as plain values.
        fps: Frames per second of the video.
        has_latents: Whether latents were put with it.
    """

    path: Path
    meta: dict[str, Any]
    fps: float
    has_latents: bool

    def video(self) -> np.ndarray:
        """Return the frames, uint8 (frames, height, width, 3), bit for bit as they were put."""
        return read_lossless(self.path / _VIDEO)

    def latents(self) -> torch.Tensor | None:
        """Return the latents as they were put; None if there were none."""
        if not self.has_latents:
            return None
        from safetensors.torch import load

        return load((self.path / _LATENTS).read_bytes())["latents"]


class DenseStore:
    """A folder of generations, each under the hash of everything that decided its pixels.

    Args:
        root: The folder; made at the first ``put``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @staticmethod
    def key(identity: Mapping[str, Any]) -> str:
        """Return 32 hex digits that name a generation: its model, sampler, prompt, seed, backend, device, versions.

        Raises:
            ValueError: If ``identity`` is empty or is not made of plain values.
        """
        if not identity:
            raise ValueError("a stored generation needs an identity; an empty one would match every generation")
        return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:32]

    def get(self, key: str) -> Entry | None:
        """Return the generation of this key; None if there is none, or, with a warning, if it is damaged."""
        path = self._path(key)
        if not path.is_dir():
            return None
        try:
            facts = json.loads((path / _META).read_bytes())
            for name, digest in facts["sha256"].items():
                with open(path / name, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise ValueError(f"{name} is not what was stored")
            if _VIDEO not in facts["sha256"] or facts["key"] != key:
                raise ValueError("it is not the generation of its name")
            return Entry(path, facts["meta"], facts["fps"], _LATENTS in facts["sha256"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"dense generation {path} is damaged and will be made again: {error}", stacklevel=2)
            return None

    def put(
        self,
        key: str,
        video: np.ndarray | torch.Tensor,
        *,
        fps: float,
        latents: torch.Tensor | None = None,
        meta: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> Entry:
        """Store a generation and return it; one that is there and whole stays, a damaged one is replaced.

        Args:
            key: From ``key``.
            video: (frames, height, width, 3), uint8 or floating point in [0, 1].
            fps: Frames per second.
            latents: The transformer's last output, any shape.
            meta: Plain values to keep with it, the timings above all.
            replace: Replace one that is whole, too; for new timings.

        Raises:
            ValueError: If the video or ``meta`` cannot be stored.
            RecordError: If the disk refuses; nothing is then stored.
        """
        path, frames = self._path(key), to_uint8(video)
        facts: dict[str, Any] = json.loads(canonical_json({"key": key, "fps": float(fps), "meta": dict(meta or {})}))
        partial = partial_folder(path)
        lock = Lock(path.with_name(f".lock-{key}"))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Whoever comes second to the same generation waits for the first, and takes it.
            lock.acquire(wait=True)
            present = self.get(key)
            if present is not None and not replace:
                return present
            sweep(path)
            partial.mkdir()
            _write_video(partial / _VIDEO, frames, fps)
            if latents is not None:
                from safetensors.torch import save

                write_bytes(partial / _LATENTS, save({"latents": latents.detach().cpu().contiguous()}))
            digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(partial.iterdir())}
            facts["sha256"] = digests
            write_bytes(partial / _META, json.dumps(facts, indent=2).encode())
            publish(partial, path)
        except Exception as error:
            refusal = storage_error(error) or (error if isinstance(error, OSError) else None)
            if refusal is None:
                raise
            raise RecordError(f"store_dir={self.root}: a dense video cannot be written: {refusal.strerror}") from error
        finally:
            if lock.is_held:
                shutil.rmtree(partial, ignore_errors=True)
                lock.release()
        return Entry(path, facts["meta"], facts["fps"], latents is not None)

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Keep other processes from making or deleting the same generation meanwhile.

        Who wants to make it waits, then finds it with ``get``; ``remove`` passes it over.
        """
        lock = Lock(self._path(key).with_name(f".making-{key}"))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(wait=True)
        except OSError as error:
            raise RecordError(f"store_dir={self.root} cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every generation that is there, whole or not, by key.

        Raises:
            RecordError: If the folder cannot be read.
        """
        try:
            places = sorted(place for place in self.root.iterdir() if _is_key(place.name)) if self.root.exists() else []
            return {place.name: sum(file.stat().st_size for file in place.iterdir()) for place in places}
        except OSError as error:
            raise RecordError(f"store_dir={self.root} cannot be read: {error.strerror}") from error

    def remove(self, keys: Iterable[str]) -> list[str]:
        """Delete generations and return their keys; one that another process makes or writes right now stays.

        Raises:
            RecordError: If the disk refuses.
        """
        removed = []
        for key in keys:
            path = self._path(key)
            locks = [Lock(path.with_name(f".{name}-{key}")) for name in ("making", "lock")]
            try:
                for lock in locks:
                    lock.acquire()
                # Gone in one step: no reader finds half of it.
                hidden = partial_folder(path)
                path.rename(hidden)
                shutil.rmtree(hidden)
                sweep(path)
                removed.append(key)
            except LockHeldError:
                continue
            except OSError as error:
                raise RecordError(f"store_dir={self.root}: {key} cannot be deleted: {error.strerror}") from error
            finally:
                for lock in locks:
                    lock.release()
        return removed

    def _path(self, key: str) -> Path:
        if not _is_key(key):
            raise ValueError(f"{key!r} is not a key of the store; use DenseStore.key")
        return self.root / key


def _is_key(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    write_lossless(path, frames, fps)
    try:
        is_whole = np.array_equal(read_lossless(path), frames)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise RecordError(f"{path} does not give back what was written to it; is the disk full or failing?")
