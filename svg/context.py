"""Where one attention call stands: its layer, step, branch and whatever its method keeps between calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svg.layout import TokenLayout

if TYPE_CHECKING:
    import torch


@dataclass
class AttentionContext:
    """What a method may know about the call it plans.

    Args:
        layout: Token counts of the sequence.
        layer: Index of the self-attention layer in the transformer, from 0.
        num_layers: Self-attention layers of the transformer.
        step: Index of the denoising step, from 0; never the scheduler's timestep value.
        num_steps: Denoising steps of this generation.
        branch: Which forward of the step: ``"cond"``, ``"uncond"`` or ``"joint"``.
        seed: Seed of everything that methods draw.
        head_offset: Index of this rank's first head where heads are split over devices.
        num_heads: Heads on all devices together; None where they are not split.
        state: What the method learnt in earlier calls of the same transformer, layer and branch; empty at the start
            of each generation.
    """

    layout: TokenLayout
    layer: int
    num_layers: int
    step: int
    num_steps: int
    branch: str = "cond"
    seed: int = 0
    head_offset: int = 0
    num_heads: int | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def generator(self) -> torch.Generator:
        """A fresh CPU generator seeded by (seed, step, layer); the global generator is never touched."""
        import hashlib

        import torch

        digest = hashlib.sha256(f"{self.seed}/{self.step}/{self.layer}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
