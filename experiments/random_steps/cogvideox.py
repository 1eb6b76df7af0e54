"""A step of CogVideoX 1.5: one forward of a batch of two, the image in half of the channels."""

from __future__ import annotations

from typing import Any

import torch

from experiments.random_steps import Request
from experiments.schema import TransformerConfig

PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
TRANSFORMER = "CogVideoXTransformer3DModel"
LAYERS = ("num_layers",)


def settings(sizes: TransformerConfig) -> dict[str, Any]:
    """Return what the class calls the sizes that are CogVideoX's own.

    Raises:
        ValueError: If the feed-forward network is not four times as wide as the model, as in every CogVideoX.
    """
    width = sizes.num_heads * sizes.head_dim
    if sizes.ffn_dim != 4 * width:
        raise ValueError(f"model.transformer.ffn_dim is {sizes.ffn_dim}; CogVideoX's is 4 x {width} = {4 * width}")
    return {"num_layers": sizes.num_layers}


def forwards(request: Request) -> list[dict[str, Any]]:
    """Return the keyword arguments of the one forward of a step."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config, batch = request.transformer.config, 2 if request.is_guided else 1
    frames, height, width = request.latents
    patch = config.patch_size
    rotation = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=None,
        grid_size=(height // patch, width // patch),
        temporal_size=request.layout.num_frames,
        grid_type="slice",
        max_size=(config.sample_height // patch, config.sample_width // patch),
        device=request.device,
    )
    inputs = {
        "hidden_states": request.normal(batch, frames, config.in_channels, height, width),
        "encoder_hidden_states": request.normal(batch, request.layout.num_text_tokens, config.text_embed_dim),
        "timestep": request.timesteps(batch, torch.int64),
        "image_rotary_emb": rotation,
        "attention_kwargs": None,
        "return_dict": False,
    }
    if config.ofs_embed_dim is not None:
        inputs["ofs"] = torch.full((1,), 2.0, device=request.device, dtype=request.dtype)
    return [inputs]
