"""A step of Wan: two forwards that differ in their text; an image has channels and tokens of its own."""

from __future__ import annotations

from typing import Any

from experiments.random_steps import Request
from experiments.schema import TransformerConfig

PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
TRANSFORMER = "WanTransformer3DModel"
LAYERS = ("num_layers",)


def settings(sizes: TransformerConfig) -> dict[str, Any]:
    """Return what the class calls the sizes that are Wan's own."""
    found: dict[str, Any] = {"num_layers": sizes.num_layers, "ffn_dim": sizes.ffn_dim}
    if sizes.num_image_tokens:
        found["added_kv_proj_dim"] = sizes.num_heads * sizes.head_dim
    return found


def forwards(request: Request) -> list[dict[str, Any]]:
    """Return the keyword arguments of each forward of one step."""
    config = request.transformer.config
    shared = {
        "hidden_states": request.normal(1, config.in_channels, *request.latents),
        "timestep": request.timesteps(1),
        "attention_kwargs": None,
        "return_dict": False,
    }
    if request.model.pipeline == "WanImageToVideoPipeline":
        tokens = request.sizes.num_image_tokens
        shared["encoder_hidden_states_image"] = request.normal(1, tokens, config.image_dim) if tokens else None
    length = request.model.max_sequence_length or 512
    texts = [request.normal(1, length, config.text_dim) for _ in range(2 if request.is_guided else 1)]
    return [shared | {"encoder_hidden_states": text} for text in texts]
