"""Write the trained parts as a diffusers pipeline folder in bf16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import torch

from experiments.tiny.family import Family, Parts
from experiments.tiny.resume import SHARD_BYTES


def pipeline(
    family: Family,
    vae: Any,
    model: Parts,
    tokenizers: dict[str, Any],
    weights: dict[str, torch.Tensor] | None = None,
) -> Any:
    """Return a float32 pipeline of copies rounded to bf16, as they are stored; ``weights`` replace the model's."""
    model = copy.deepcopy(model)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    parts = {"vae": copy.deepcopy(vae), **dict(model.named_children())}
    parts = {name: part.eval().to(torch.bfloat16).float() for name, part in parts.items()}
    return getattr(diffusers, family.pipeline)(scheduler=family.scheduler(), **tokenizers, **parts)


def save_pipeline(pipe: Any, folder: Path) -> None:
    """Save a pipeline in bf16 in diffusers' format; files stay below 16 MiB."""
    stored = copy.deepcopy(pipe).to("cpu", torch.bfloat16)
    stored.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_BYTES)


def latent_statistics(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation per channel of ``(clips, channels, ...)``, float32."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = torch.stack([channel.float().mean() for channel in flat])
    deviation = torch.stack([channel.float().std() for channel in flat])
    return mean, deviation
