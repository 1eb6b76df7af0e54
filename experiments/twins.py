"""Dense twins: the same noise under full attention, from the store or made, with times of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.generation import Generation, Generator
from svg import provenance
from svg.code_hash import code_hash
from svg.methods.dense import Dense
from svg.models import module_of
from svg.prompts import Prompt
from svg.receipt import Call, Receipt
from svg.results import RecordError
from svg.store import DenseStore, Entry

# Facts of a machine without which a time, or a rounding, is another one.
MACHINE = ("cpu", "gpu", "threads", "hostname_hash")
# Sampler settings that decide the pixels of a dense generation.
SAMPLER = (
    "num_inference_steps",
    "num_frames",
    "size_from_image",
    "guidance_scale",
    "guidance_scale_2",
    "boundary_ratio",
    "negative_prompt",
    "max_sequence_length",
    "flow_shift",
    "fps",
    "vae_tiling",
    "guardrail",
    "dtype",
    "vae_dtype",
    "linear_precision",
)


@dataclass(frozen=True)
class Twin:
    """A dense generation: its key in the store, uint8 frames (frames, height, width, 3), ``Generation.timing``."""

    key: str
    frames: np.ndarray
    timing: dict[str, Any]

    def as_generation(self) -> Generation:
        """Return the twin as what a run of the method ``dense`` generates: it is one already."""
        forwards = [(step, branch, layers) for step, branch, layers in self.timing["forwards"]]
        receipt = Receipt(num_steps=len(self.timing["step_s"]), forwards=forwards)
        for step, layer, branch, backend in self.timing["calls"]:
            receipt.calls.append(Call(step, layer, branch, backend, True, 1.0, 1.0, [["dense"]], {}))
        return Generation(
            frames=self.frames,
            total_s=self.timing["total_s"],
            encode_s=self.timing["encode_s"],
            step_s=tuple(self.timing["step_s"]),
            decode_s=self.timing["decode_s"],
            spans={"attention": list(self.timing["attention_s"])},
            peak_gib=self.timing["peak_gib"],
            receipt=receipt,
        )


class Twins:
    """Hands out dense twins.

    Args:
        root: Folder of the store.
        fingerprint: Of the model's files.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root, self._store, self._fingerprint = root, DenseStore(root), fingerprint

    def get(
        self, generator: Generator, dense_backend: Any, prompt: Prompt, seed: int, on_step: Callable[[], None]
    ) -> Twin:
        """Return the twin of a prompt and seed, made now where the store has none from this very machine."""
        key = DenseStore.key(self._identity(generator, dense_backend, prompt, seed))
        # Held until the frames are read, so that nobody frees the twin meanwhile.
        with self._store.making(key):
            entry = self._store.get(key)
            if entry is None:
                entry = self._make(key, generator, dense_backend, prompt, seed, on_step)
            else:
                for _ in range(generator.model.num_inference_steps):
                    on_step()
            return Twin(key, entry.video(), entry.meta)

    def frames(self, key: str) -> np.ndarray:
        """Return the frames of a twin that was there, by its name.

        Raises:
            RecordError: If it is gone meanwhile.
        """
        with self._store.making(key):
            entry = self._store.get(key)
            if entry is None:
                raise RecordError(f"store_dir={self.root}: the dense video {key} is gone; give the command again")
            return entry.video()

    def again(self, generator: Generator, dense_backend: Any, prompt: Prompt, seed: int) -> Twin:
        """Time a twin once more, and keep its frames with the new times; one that is gone meanwhile is made anew."""
        key = DenseStore.key(self._identity(generator, dense_backend, prompt, seed))
        with self._store.making(key):
            entry = self._store.get(key)
            if entry is None:
                entry = self._make(key, generator, dense_backend, prompt, seed, lambda: None)
                return Twin(key, entry.video(), entry.meta)
            frames = entry.video()
            made = generator(prompt, seed, Dense(), dense_backend, dense_backend)
            settings: dict[str, Any] = {"fps": generator.model.fps, "latents": entry.latents(), "meta": made.timing()}
            entry = self._store.put(key, frames, replace=True, **settings)
            return Twin(key, frames, entry.meta)

    def _make(
        self,
        key: str,
        generator: Generator,
        dense_backend: Any,
        prompt: Prompt,
        seed: int,
        on_step: Callable[[], None],
    ) -> Entry:
        made = generator(prompt, seed, Dense(), dense_backend, dense_backend, on_step=on_step)
        assert made.frames is not None
        return self._store.put(key, made.frames, fps=generator.model.fps, latents=made.latents, meta=made.timing())

    def _identity(self, generator: Generator, dense_backend: Any, prompt: Prompt, seed: int) -> dict[str, Any]:
        machine = provenance.collect(())
        return {
            "model": self._fingerprint,
            "sampler": {name: getattr(generator.model, name) for name in SAMPLER},
            "size": generator.size(prompt),
            "prompt": prompt.identity,
            "seed": seed,
            "backend": dense_backend.name,
            "compile": generator.compile,
            "device": str(generator.device),
            "machine": {name: machine[name] for name in MACHINE},
            "versions": provenance.hardware(generator.device.type)["versions"],
            "code": code_hash(
                "experiments.generation", type(dense_backend).__module__, module_of(generator.model.pipeline)
            ),
        }
