"""Wan 2.1 and 2.2 in diffusers: video tokens only in self-attention, text in cross-attention, two forwards a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from svg.layout import TokenLayout
from svg.models._fused import Placing, fused
from svg.models._inputs import projected
from svg.models._processor import SelfAttention
from svg.models._sizes import check_frames, check_pixels, check_positions
from svg.models._text import TextCount, counted, most_tokens
from svg.plan import AttentionInputs

PIPELINES = ("WanPipeline",)


class WanAdapter:
    """What the attachment needs to know of Wan."""

    branches = ("cond", "uncond")
    token_arguments: ClassVar = {"hidden_states": (1, 3), "temb": (1, 4), "rotary_emb": (1, 4)}
    video_layers = (r"blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|attn2\.to_(q|out\.0)|ffn\.net\.(0\.proj|2))",)

    def transformers(self, pipeline: Any) -> list[torch.nn.Module]:
        """Return the pipeline's transformers: one, or the two experts of Wan 2.2."""
        experts = (pipeline.transformer, getattr(pipeline, "transformer_2", None))
        return [transformer for transformer in experts if transformer is not None]

    def self_attentions(self, transformer: Any) -> list[Any]:
        return [block.attn1 for block in transformer.blocks]

    def blocks(self, transformer: Any) -> list[torch.nn.Module]:
        return list(transformer.blocks)

    def layout(self, transformer: Any, inputs: dict[str, Any]) -> TokenLayout:
        """Return the layout of latents ``(batch, channels, frames, height, width)``."""
        _, _, frames, height, width = inputs["hidden_states"].shape
        patch_frames, patch_height, patch_width = transformer.config.patch_size
        return TokenLayout(frames // patch_frames, (height // patch_height) * (width // patch_width))

    def check_size(self, pipeline: Any, height: int, width: int, num_frames: int) -> None:
        """Raise ``ValueError`` unless the model takes videos of this size; the pipeline itself would round it.

        Args:
            pipeline: A Wan pipeline.
            height, width: Pixels.
            num_frames: Frames of the video, not of the latents.
        """
        config: Any = self.transformers(pipeline)[0].config
        check_frames(num_frames, pipeline.vae_scale_factor_temporal)
        latent_frames = (num_frames - 1) // pipeline.vae_scale_factor_temporal + 1
        check_positions("num_frames", latent_frames, config.rope_max_seq_len)
        _, *patches = config.patch_size
        sides = zip(("height", "width"), (height, width), patches, self.size_multiples(pipeline), strict=True)
        for name, pixels, patch, multiple in sides:
            check_pixels(name, pixels, multiple)
            check_positions(name, pixels // (pipeline.vae_scale_factor_spatial * patch), config.rope_max_seq_len)

    def size_multiples(self, pipeline: Any) -> tuple[int, int]:
        """Return what height and width must be multiples of, in pixels."""
        config: Any = self.transformers(pipeline)[0].config
        _, *patch = config.patch_size
        # 16: diffusers' own rule, whatever the autoencoder's factor.
        tall, wide = (math.lcm(16, pipeline.vae_scale_factor_spatial * side) for side in patch)
        return tall, wide

    def text_counts(self, pipeline: Any, prompt: str, max_sequence_length: int | None) -> list[TextCount]:
        """Return what the text encoder takes of a prompt, cleaned as the pipeline cleans it."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        most = most_tokens(pipeline, max_sequence_length)
        return [counted("text_encoder", pipeline.tokenizer, prompt_clean(prompt), most)]

    def processor(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> WanSelfAttention:
        return WanSelfAttention(attend, stock)


class WanSelfAttention(SelfAttention):
    """diffusers' attention processor for Wan's self-attention, with the attention itself handed in.

    Args:
        attend: Computes one call, ``(batch, num_heads, seq_len, head_dim)`` out.
        stock: The processor it replaces; its backend must be at its default.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> None:
        super().__init__(attend)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("Wan's self-attention takes neither text nor a mask; got one of them")
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        output, _ = self.attended(attn, query, key, value, rotary_emb)
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
            return fused(rows, attn.heads, norm, rotation, placing=placing)

        def finish(norm: torch.nn.Module, rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            heads = norm(rows).unflatten(2, (attn.heads, -1))
            return (heads if rotation is None else rotate(heads, rotation, indices)).transpose(1, 2)

        return projected(attn.heads, (attn.norm_q, attn.norm_k), query, key, value, whole, finish)


def rotate(
    heads: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor], indices: torch.Tensor | None
) -> torch.Tensor:
    """Apply Wan's rotary embedding, adjacent channels paired.

    Args:
        heads: ``(batch, rows, num_heads, head_dim)``.
        rotary_emb: Cosines and sines, each ``(1, seq_len, 1, head_dim)``, every value given twice.
        indices: Positions of the rows, or None for all of them in order.
    """
    cosine, sine = (table if indices is None else table.index_select(1, indices) for table in rotary_emb)
    cosine, sine = cosine[..., 0::2], sine[..., 1::2]
    even, odd = heads[..., 0::2], heads[..., 1::2]
    rotated = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1)
    return rotated.flatten(-2).type_as(heads)
