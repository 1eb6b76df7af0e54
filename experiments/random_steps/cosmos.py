"""A step of Cosmos: two forwards that differ in their text, with a mask of padding and the frames per second."""

from __future__ import annotations

from typing import Any

import torch

from experiments.random_steps import Request
from experiments.schema import TransformerConfig

PIPELINES = ("CosmosTextToWorldPipeline",)
TRANSFORMER = "CosmosTransformer3DModel"
LAYERS = ("num_layers",)


def settings(sizes: TransformerConfig) -> dict[str, Any]:
    """Return what the class calls the sizes that are Cosmos' own."""
    return {
        "num_layers": sizes.num_layers,
        "mlp_ratio": sizes.ffn_dim / (sizes.num_heads * sizes.head_dim),
        "text_embed_dim": sizes.cross_dim,
    }


def forwards(request: Request) -> list[dict[str, Any]]:
    """Return the keyword arguments of each forward of one step."""
    config, model = request.transformer.config, request.model
    shared = {
        "hidden_states": request.normal(1, config.in_channels, *request.latents),
        "timestep": request.timesteps(1, request.dtype),
        "fps": model.fps,
        "padding_mask": torch.zeros(1, 1, model.height, model.width, device=request.device, dtype=request.dtype),
        "return_dict": False,
    }
    length = model.max_sequence_length or 512
    texts = [request.normal(1, length, config.text_embed_dim) for _ in range(2 if request.is_guided else 1)]
    return [shared | {"encoder_hidden_states": text} for text in texts]
