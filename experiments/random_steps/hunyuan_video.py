"""A step of HunyuanVideo: one forward that is told its guidance; a prompt is padded, behind the image's tokens."""

from __future__ import annotations

from typing import Any

import torch

from experiments.random_steps import Request
from experiments.schema import TransformerConfig

PIPELINES = ("HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline")
TRANSFORMER = "HunyuanVideoTransformer3DModel"
# Dual-stream blocks, then single-stream ones.
LAYERS = ("num_layers", "num_single_layers")


def settings(sizes: TransformerConfig) -> dict[str, Any]:
    """Return what the class calls the sizes that are HunyuanVideo's own."""
    return {"mlp_ratio": sizes.ffn_dim / (sizes.num_heads * sizes.head_dim)}


def forwards(request: Request) -> list[dict[str, Any]]:
    """Return the keyword arguments of the one forward of a step.

    The image stands in the first latent frame or in channels; either way it changes no shape but that of the channels.
    """
    config, model = request.transformer.config, request.model
    num_text = request.layout.num_text_tokens
    assert model.geometry is not None and model.max_sequence_length is not None
    padded = model.geometry.image_tokens + model.max_sequence_length - model.geometry.cut_text_tokens
    guidance = torch.full((1,), model.guidance_scale, device=request.device, dtype=request.dtype) * 1000.0
    return [
        {
            "hidden_states": request.normal(1, config.in_channels, *request.latents),
            "timestep": request.timesteps(1),
            "encoder_hidden_states": request.normal(1, padded, config.text_embed_dim),
            "encoder_attention_mask": (torch.arange(padded, device=request.device) < num_text)[None].to(request.dtype),
            "pooled_projections": request.normal(1, config.pooled_projection_dim),
            "guidance": guidance if config.guidance_embeds else None,
            "attention_kwargs": None,
            "return_dict": False,
        }
    ]
