"""CogVideoX 1.0 and 1.5 in diffusers: text before video in one self-attention; guidance is one batched forward."""

from __future__ import annotations

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

PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
STOCK_PROCESSORS = ("CogVideoXAttnProcessor2_0", "FusedCogVideoXAttnProcessor2_0")


class CogVideoXAdapter:
    """What the attachment needs to know of CogVideoX."""

    branches = ("joint",)
    # diffusers' class names none.
    repeated_blocks = ("CogVideoXBlock",)
    token_arguments: ClassVar = {"hidden_states": (1, 3), "image_rotary_emb": (0, 2)}
    video_layers = (r"transformer_blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",)

    def transformers(self, pipeline: Any) -> list[torch.nn.Module]:
        return [pipeline.transformer]

    def self_attentions(self, transformer: Any) -> list[Any]:
        return [block.attn1 for block in transformer.transformer_blocks]

    def blocks(self, transformer: Any) -> list[torch.nn.Module]:
        return list(transformer.transformer_blocks)

    def layout(self, transformer: Any, inputs: dict[str, Any]) -> TokenLayout:
        """Return the layout of latents ``(batch, frames, channels, height, width)`` after the text's padded tokens."""
        _, frames, _, height, width = inputs["hidden_states"].shape
        patch, patch_frames = transformer.config.patch_size, transformer.config.patch_size_t or 1
        num_text_tokens = inputs["encoder_hidden_states"].shape[1]
        return TokenLayout(frames // patch_frames, (height // patch) * (width // patch), num_text_tokens, "first")

    def item_branches(self, pipeline: Any, inputs: dict[str, Any]) -> tuple[str, ...]:
        """Return which branch of the guidance each batch item is: the first half is led away from, as diffusers has it.

        Args:
            pipeline: Its guidance scale as the generation begins; a dynamic one changes later.
            inputs: The forward's.
        """
        batch = inputs["hidden_states"].shape[0]
        if not pipeline.guidance_scale > 1:
            return ("cond",) * batch
        return ("uncond",) * (batch // 2) + ("cond",) * (batch // 2)

    def check_size(self, pipeline: Any, height: int, width: int, num_frames: int) -> None:
        """Raise ``ValueError`` unless the model takes videos of this size.

        The autoencoder decodes an even number of latent frames to more frames than were asked for, so the number of
        frames is 8k + 1 where it shortens time by four.

        Args:
            pipeline: A CogVideoX pipeline.
            height, width: Pixels.
            num_frames: Frames of the video, not of the latents.
        """
        config = pipeline.transformer.config
        check_frames(num_frames, 2 * pipeline.vae_scale_factor_temporal)
        multiple = pipeline.vae_scale_factor_spatial * config.patch_size
        latent_frames = (num_frames - 1) // pipeline.vae_scale_factor_temporal + 1
        for name, pixels, sample in (("height", height, config.sample_height), ("width", width, config.sample_width)):
            check_pixels(name, pixels, multiple)
            if config.use_learned_positional_embeddings and pixels // pipeline.vae_scale_factor_spatial != sample:
                # The image-to-video model of 1.0 has one learned position per token of one size.
                fits = sample * pipeline.vae_scale_factor_spatial
                raise ValueError(f"model.{name} is {pixels}; this model takes {fits} only")
            if config.patch_size_t is not None:
                check_positions(name, pixels // multiple, sample // config.patch_size)
        if config.use_learned_positional_embeddings:
            check_positions("num_frames", latent_frames, (config.sample_frames - 1) // 4 + 1)

    def text_counts(self, pipeline: Any, prompt: str, max_sequence_length: int | None) -> list[TextCount]:
        """Return what the text encoder takes of a prompt."""
        most = most_tokens(pipeline, max_sequence_length)
        return [counted("text_encoder", pipeline.tokenizer, prompt, most)]

    def processor(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> CogVideoXSelfAttention:
        return CogVideoXSelfAttention(attend, stock)


class CogVideoXSelfAttention(SelfAttention):
    """diffusers' attention processor for CogVideoX, with the attention itself handed in.

    Args:
        attend: Computes one call, ``(batch, num_heads, seq_len, head_dim)`` out.
        stock: The processor it replaces; says whether the projections are fused.

    Raises:
        ValueError: If the replaced processor is not diffusers' own.
    """

    def __init__(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> None:
        # One of our own is refused by the attachment, which knows why.
        if type(stock).__name__ not in (*STOCK_PROCESSORS, type(self).__name__):
            raise ValueError(
                f"CogVideoX's attention runs through {type(stock).__name__}; svg.attach replaces diffusers' own "
                f"processors only: {', '.join(STOCK_PROCESSORS)}"
            )
        super().__init__(attend)
        self._is_fused = type(stock).__name__.startswith("Fused")

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if attention_mask is not None:
            raise ValueError("attention_kwargs holds an attention_mask; svg.attach plans CogVideoX's attention itself")
        num_text_tokens = encoder_hidden_states.shape[1]
        tokens = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        if self._is_fused:
            query, key, value = attn.to_qkv(tokens).chunk(3, dim=-1)
        else:
            query, key, value = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        output, _ = self.attended(attn, query, key, value, image_rotary_emb)
        output = attn.to_out[1](attn.to_out[0](output))
        return output[:, num_text_tokens:], output[:, :num_text_tokens]

    def inputs(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        num_apart: int,
    ) -> AttentionInputs:
        # The rotation is the video's, which stands after the text.
        num_text_tokens = 0 if rotation is None else query.shape[1] - rotation[0].shape[0]

        def whole(
            norm: torch.nn.Module | None, rows: torch.Tensor, placing: Placing | None = None
        ) -> torch.Tensor | None:
            return fused(rows, attn.heads, norm, rotation, text=(0, num_text_tokens), placing=placing)

        def finish(norm: torch.nn.Module | None, rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            heads = rows.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            heads = heads if norm is None else norm(heads)
            return heads if rotation is None else rotate(heads, _with_text(rotation, num_text_tokens), indices)

        return projected(attn.heads, (attn.norm_q, attn.norm_k), query, key, value, whole, finish)


def _with_text(
    rotary_emb: tuple[torch.Tensor, torch.Tensor], num_text_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the rotation by nothing of the text tokens before the video's cosines and sines, ``(tokens, head_dim)``."""
    cosine, sine = rotary_emb
    still = cosine.new_ones(num_text_tokens, cosine.shape[1])
    return torch.cat((still, cosine)), torch.cat((torch.zeros_like(still), sine))


def rotate(
    heads: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor], indices: torch.Tensor | None
) -> torch.Tensor:
    """Apply CogVideoX's rotary embedding in float32, adjacent channels paired.

    Args:
        heads: ``(batch, num_heads, rows, head_dim)``.
        rotary_emb: Cosines and sines, each ``(seq_len, head_dim)``, every value given twice.
        indices: Positions of the rows, or None for all of them in order.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    if indices is not None:
        cosine, sine = rotary_emb
        rotary_emb = cosine.index_select(0, indices), sine.index_select(0, indices)
    return apply_rotary_emb(heads, rotary_emb)
