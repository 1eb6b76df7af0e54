"""What one denoising step gives a model's transformer: one diffusers family per file, random numbers in real shapes.

Each file names in ``PIPELINES`` the pipelines it knows, in ``TRANSFORMER`` the class of their transformer in diffusers,
and in ``LAYERS`` the settings of that class that count blocks. ``settings(sizes)`` is what the class calls the model's
sizes, ``forwards(request)`` the keyword arguments of every forward of one step.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

import torch

from experiments.schema import ModelConfig, TransformerConfig
from svg.layout import TokenLayout


@dataclass(frozen=True)
class Request:
    """One step that is wanted.

    Args:
        transformer: It takes the inputs.
        model: Size of the video, guidance and text.
        sizes: The model's settings of its transformer.
        layout: Tokens of a self-attention call, with the prompt's own.
        latents: Frames, height and width of the latents, filled up to whole tokens.
        timestep: The scheduler's value.
        generator: Draws on ``device``.
    """

    transformer: Any
    model: ModelConfig
    sizes: TransformerConfig
    layout: TokenLayout
    latents: tuple[int, int, int]
    timestep: float
    generator: torch.Generator

    @property
    def device(self) -> torch.device:
        return self.generator.device

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.model.dtype)

    @property
    def is_guided(self) -> bool:
        """Whether there is an unconditional prediction."""
        return self.sizes.guidance != "embedded" and self.model.guidance_scale > 1

    def normal(self, *shape: int) -> torch.Tensor:
        """Return unit-normal numbers in the model's precision."""
        return torch.randn(shape, generator=self.generator, device=self.device).to(self.dtype)

    def timesteps(self, batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the timestep for each batch item."""
        return torch.full((batch,), self.timestep, device=self.device, dtype=dtype)


def family_of(pipeline: str) -> Any:
    """Return the file that knows the pipelines of a class of diffusers.

    Raises:
        ValueError: If none does.
    """
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    for module in modules:
        if pipeline in module.PIPELINES:
            return module
    known = ", ".join(sorted(name for module in modules for name in module.PIPELINES))
    raise ValueError(f"model.pipeline is {pipeline!r}; a step is known of {known}")
