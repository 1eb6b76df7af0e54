"""Cosmos 1.0 in diffusers: video tokens only in self-attention, text in cross-attention, two forwards a step."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from svg.layout import TokenLayout
from svg.models._fused import Placing, fused
from svg.models._inputs import projected
from svg.models._processor import SelfAttention
from svg.models._sizes import check_frames, check_pixels, check_positions
from svg.models._text import TextCount, counted, most_tokens
from svg.plan import AttentionInputs

PIPELINES = ("CosmosTextToWorldPipeline",)
STOCK_PROCESSOR = "CosmosAttnProcessor2_0"


class CosmosAdapter:
    """What the attachment needs to know of Cosmos."""

    branches = ("cond", "uncond")
    # diffusers' class names none.
    repeated_blocks = ("CosmosTransformerBlock",)
    token_arguments: ClassVar = {
        "hidden_states": (1, 3),
        "embedded_timestep": (1, 3),
        "temb": (1, 3),
        "image_rotary_emb": (0, 2),
        "extra_pos_emb": (1, 3),
    }
    video_layers = (r"transformer_blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|attn2\.to_(q|out\.0)|ff\.net\.(0\.proj|2))",)

    def transformers(self, pipeline: Any) -> list[torch.nn.Module]:
        resize_without_torchvision()
        return [pipeline.transformer]

    def self_attentions(self, transformer: Any) -> list[Any]:
        return [block.attn1 for block in transformer.transformer_blocks]

    def blocks(self, transformer: Any) -> list[torch.nn.Module]:
        return list(transformer.transformer_blocks)

    def layout(self, transformer: Any, inputs: dict[str, Any]) -> TokenLayout:
        """Return the layout of latents ``(batch, channels, frames, height, width)``."""
        _, _, frames, height, width = inputs["hidden_states"].shape
        patch_frames, patch_height, patch_width = transformer.config.patch_size
        return TokenLayout(frames // patch_frames, (height // patch_height) * (width // patch_width))

    def check_size(self, pipeline: Any, height: int, width: int, num_frames: int) -> None:
        """Raise ``ValueError`` unless the model takes videos of this size.

        Args:
            pipeline: A Cosmos pipeline.
            height, width: Pixels.
            num_frames: Frames of the video, not of the latents.
        """
        config, latents = pipeline.transformer.config, pipeline.vae.config
        check_frames(num_frames, pipeline.vae_scale_factor_temporal)
        latent_frames = (num_frames - 1) // pipeline.vae_scale_factor_temporal + 1
        patch_frames, *patches = config.patch_size
        most_frames, *most = config.max_size
        check_positions("num_frames", latent_frames // patch_frames, most_frames // patch_frames)
        for name, pixels, patch, limit in zip(("height", "width"), (height, width), patches, most, strict=True):
            # 16: diffusers' own rule, whatever the autoencoder's factor.
            check_pixels(name, pixels, max(16, pipeline.vae_scale_factor_spatial * patch))
            check_positions(name, pixels // (pipeline.vae_scale_factor_spatial * patch), limit // patch)
        if latents.latents_mean is not None:
            # The autoencoder has a mean and a spread for each latent frame.
            known = len(latents.latents_mean) // latents.latent_channels
            if known > 1:
                check_positions("num_frames", latent_frames, known)

    def text_counts(self, pipeline: Any, prompt: str, max_sequence_length: int | None) -> list[TextCount]:
        """Return what the text encoder takes of a prompt."""
        most = most_tokens(pipeline, max_sequence_length)
        return [counted("text_encoder", pipeline.tokenizer, prompt, most)]

    def processor(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> CosmosSelfAttention:
        return CosmosSelfAttention(attend, stock)


class CosmosSelfAttention(SelfAttention):
    """diffusers' attention processor for Cosmos' self-attention, with the attention itself handed in.

    Args:
        attend: Computes one call, ``(batch, num_heads, seq_len, head_dim)`` out.
        stock: The processor it replaces.

    Raises:
        ValueError: If the replaced processor is not diffusers' own.
    """

    def __init__(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> None:
        # One of our own is refused by the attachment, which knows why.
        if type(stock).__name__ not in (STOCK_PROCESSOR, type(self).__name__):
            raise ValueError(
                f"Cosmos' attention runs through {type(stock).__name__}; svg.attach replaces diffusers' own "
                f"processor only: {STOCK_PROCESSOR}"
            )
        super().__init__(attend)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("Cosmos' self-attention takes neither text nor a mask; got one of them")
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        output, _ = self.attended(attn, query, key, value, image_rotary_emb)
        return attn.to_out[1](attn.to_out[0](output))

    def inputs(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        num_apart: int,
    ) -> AttentionInputs:
        def whole(norm: torch.nn.Module, rows: torch.Tensor, placing: Placing | None = None) -> torch.Tensor | None:
            return fused(rows, attn.heads, norm, rotation, is_interleaved=False, placing=placing)

        def finish(norm: torch.nn.Module, rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            heads = norm(rows.unflatten(2, (attn.heads, -1)).transpose(1, 2))
            return heads if rotation is None else rotate(heads, rotation, indices)

        return projected(attn.heads, (attn.norm_q, attn.norm_k), query, key, value, whole, finish)


def rotate(
    heads: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor], indices: torch.Tensor | None
) -> torch.Tensor:
    """Apply Cosmos' rotary embedding in float32, each channel paired with the one half a head further on.

    Args:
        heads: ``(batch, num_heads, rows, head_dim)``.
        rotary_emb: Cosines and sines, each ``(seq_len, head_dim)``.
        indices: Positions of the rows, or None for all of them in order.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    if indices is not None:
        cosine, sine = rotary_emb
        rotary_emb = cosine.index_select(0, indices), sine.index_select(0, indices)
    return apply_rotary_emb(heads, rotary_emb, use_real_unbind_dim=-2)


def resize_without_torchvision() -> None:
    """Let diffusers' Cosmos transformer run where torchvision is not installed, whose ``resize`` it calls by name.

    It resizes a padding mask to the latents, to the nearest pixel. The name is given only where it is missing and
    every forward would end in an error, so nothing that works is changed.
    """
    module = importlib.import_module("diffusers.models.transformers.transformer_cosmos")
    if hasattr(module, "transforms"):
        return

    def resize(image: torch.Tensor, size: list[int], interpolation: Any = None) -> torch.Tensor:
        return torch.nn.functional.interpolate(image, size=tuple(size), mode="nearest")

    module.transforms = SimpleNamespace(  # type: ignore[attr-defined]
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )


class NoGuardrail:
    """What stands where Cosmos' pipeline wants a guardrail, and checks nothing.

    The licence of NVIDIA's weights asks for a guardrail; who runs them without it has to have one of their own.
    """

    def to(self, device: Any = None, dtype: Any = None) -> NoGuardrail:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames
