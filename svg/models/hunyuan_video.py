"""HunyuanVideo in diffusers: video and text attend jointly, text last, in dual-stream and then single-stream blocks.

A prompt is padded to a fixed length. Here its padding is sliced off before attention, and where the prompts of a batch
differ in length the shorter ones' keys end earlier: no mask of every pair is built, and no padding is computed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from svg.layout import TokenLayout
from svg.models._fused import Placing, fused
from svg.models._inputs import projected
from svg.models._processor import SelfAttention
from svg.models._sizes import check_frames, check_pixels, sides_for_image
from svg.models._text import TextCount, counted, most_tokens
from svg.plan import AttentionInputs

PIPELINES = ("HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline")

# What only its authors' own folders and repositories are called or hold, and the same model in diffusers' format.
OFFICIAL = {
    "hunyuan-video-t2v-720p": "hunyuanvideo-community/HunyuanVideo",
    "tencent/HunyuanVideo": "hunyuanvideo-community/HunyuanVideo",
    "hunyuan-video-i2v-720p": "hunyuanvideo-community/HunyuanVideo-I2V",
    "tencent/HunyuanVideo-I2V": "hunyuanvideo-community/HunyuanVideo-I2V",
}

# Of video tokens, of text tokens.
Norms = tuple["torch.nn.Module | None", "torch.nn.Module | None"]

# Tokens that the second text encoder takes, whatever the first one's are.
CLIP_TOKENS = 77


@dataclass
class TextLengths:
    """Text tokens without padding, of the forward that runs; on the host, so that no layer waits for the device.

    A mask is read once, as a generation hands the same one to every step.

    Args:
        longest: Text tokens that take part in attention: those of the longest prompt.
        each: LongTensor ``(batch,)`` where prompts differ in length, else None.
    """

    longest: int = 0
    each: torch.Tensor | None = None
    _known: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    def read(self, mask: torch.Tensor) -> None:
        """Take the lengths from a prompt mask ``(batch, padded length)``, whose ones come first."""
        if mask not in self._known:
            self._known[mask] = mask.sum(1, dtype=torch.long).cpu()
        lengths = self._known[mask]
        self.longest = int(lengths.max())
        self.each = None if bool((lengths == self.longest).all()) else lengths


class HunyuanVideoAdapter:
    """What the attachment needs to know of HunyuanVideo. Guidance is embedded: a step is one forward, as a rule."""

    branches = ("cond", "uncond")
    # The length of attention's sequence depends on the prompt.
    slices_text = True
    # Of image-to-video, beside those that diffusers' class names.
    repeated_blocks = ("HunyuanVideoTokenReplaceTransformerBlock", "HunyuanVideoTokenReplaceSingleTransformerBlock")
    token_arguments: ClassVar = {
        "hidden_states": (1, 3),
        "freqs_cis": (0, 2),
        "image_rotary_emb": (0, 2),
        "num_tokens": (0, 0),
    }
    video_layers = (
        r"transformer_blocks\.\d+\.(attn\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
        r"single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)",
    )

    def __init__(self) -> None:
        self._text = TextLengths()

    def transformers(self, pipeline: Any) -> list[torch.nn.Module]:
        return [pipeline.transformer]

    def self_attentions(self, transformer: Any) -> list[Any]:
        """Return the joint attentions: dual-stream blocks, then single-stream blocks; the text's refiner is no part."""
        return [block.attn for block in self.blocks(transformer)]

    def blocks(self, transformer: Any) -> list[torch.nn.Module]:
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def layout(self, transformer: Any, inputs: dict[str, Any]) -> TokenLayout:
        """Return the layout of latents ``(batch, channels, frames, height, width)`` with the longest prompt's text."""
        _, _, frames, height, width = inputs["hidden_states"].shape
        config = transformer.config
        self._text.read(inputs["encoder_attention_mask"])
        tokens_per_frame = (height // config.patch_size) * (width // config.patch_size)
        return TokenLayout(frames // config.patch_size_t, tokens_per_frame, self._text.longest)

    def timestep_dtype(self, transformer: Any, inputs: dict[str, Any]) -> torch.dtype:
        """Return in which type timesteps come after the first step: the latents', which the scheduler rounds then."""
        # The image's latents are float32, and are put beside the others after every step.
        is_replaced = transformer.config.image_condition_type == "token_replace"
        return torch.float32 if is_replaced else inputs["hidden_states"].dtype

    def check_size(self, pipeline: Any, height: int, width: int, num_frames: int) -> None:
        """Raise ``ValueError`` unless the model takes videos of this size; the pipeline itself would cut frames off.

        Args:
            pipeline: A HunyuanVideo pipeline.
            height, width: Pixels.
            num_frames: Frames of the video, not of the latents.
        """
        config = pipeline.transformer.config
        check_frames(num_frames, pipeline.vae_scale_factor_temporal)
        if config.image_condition_type == "latent_concat" and num_frames < 5:
            raise ValueError(
                f"model.num_frames is {num_frames}; this model takes at least 5, of which its pipeline drops 4"
            )
        for name, pixels in (("height", height), ("width", width)):
            check_pixels(name, pixels, _multiple(pipeline))

    def size_for_image(self, pipeline: Any, area: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the video: of the image's shape, and of at most about ``area`` pixels.

        Args:
            pipeline: A HunyuanVideo pipeline.
            area: Pixels of a frame, before both sides are rounded down to what the patching can divide.
            height, width: Of the image.
        """
        return sides_for_image(area, height, width, (_multiple(pipeline), _multiple(pipeline)))

    def text_counts(self, pipeline: Any, prompt: str, max_sequence_length: int | None) -> list[TextCount]:
        """Return what the two text encoders take of a prompt: the first in its template, whose beginning is cut off."""
        template = inspect.signature(pipeline.__call__).parameters["prompt_template"].default
        most, text = most_tokens(pipeline, max_sequence_length), template["template"].format(prompt)
        return [
            counted("text_encoder", pipeline.tokenizer, text, most, before=template["crop_start"]),
            counted("text_encoder_2", pipeline.tokenizer_2, prompt, CLIP_TOKENS),
        ]

    def processor(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any) -> HunyuanVideoJointAttention:
        return HunyuanVideoJointAttention(attend, stock, self._text)


def _multiple(pipeline: Any) -> int:
    """Return what height and width must be multiples of, in pixels."""
    # 16: diffusers' own rule, whatever the autoencoder's factor.
    return math.lcm(16, pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size)


class HunyuanVideoJointAttention(SelfAttention):
    """diffusers' attention processor for HunyuanVideo's joint attention, with the attention itself handed in.

    Args:
        attend: Computes one call, ``(batch, num_heads, seq_len, head_dim)`` out.
        stock: The processor it replaces; its backend must be at its default.
        text: How long the prompts of the running forward are.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, attend: Callable[[AttentionInputs], torch.Tensor], stock: Any, text: TextLengths) -> None:
        super().__init__(attend)
        self._text = text

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Padding is projected with the rest, a few hundred tokens: shapes that no prompt changes compile once.
        if attn.add_q_proj is not None:
            query = torch.cat([attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states)], 1)
            key = torch.cat([attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states)], 1)
            value = torch.cat([attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states)], 1)
        else:
            tokens = torch.cat([hidden_states, encoder_hidden_states], 1)
            query, key, value = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        video, text = self.attended(attn, query, key, value, image_rotary_emb, encoder_hidden_states.shape[1])
        if getattr(attn, "to_out", None) is not None:
            video = attn.to_out[1](attn.to_out[0](video))
        if getattr(attn, "to_add_out", None) is not None:
            text = attn.to_add_out(text)
        return video, text

    def inputs(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        num_apart: int,
    ) -> AttentionInputs:
        num_video = query.shape[1] - num_apart
        query, key, value = (x[:, : num_video + self._text.longest] for x in (query, key, value))
        own = attn.norm_q, attn.norm_k
        text = own if attn.add_q_proj is None else (attn.norm_added_q, attn.norm_added_k)

        def whole(norms: Norms, rows: torch.Tensor, placing: Placing | None = None) -> torch.Tensor | None:
            span = num_video, rows.shape[1]
            return fused(rows, attn.heads, norms[0], rotation, text=span, text_norm=norms[1], placing=placing)

        def finish(norms: Norms, rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            heads = rows.unflatten(2, (attn.heads, -1))
            return finished(heads, *norms, rotation, num_video, indices).transpose(1, 2)

        norms = (own[0], text[0]), (own[1], text[1])
        lengths = None if self._text.each is None else num_video + self._text.each
        return projected(attn.heads, norms, query, key, value, whole, finish, lengths)


def finished(
    heads: torch.Tensor,
    norm: torch.nn.Module | None,
    text_norm: torch.nn.Module | None,
    rotary_emb: tuple[torch.Tensor, torch.Tensor] | None,
    num_video: int,
    indices: torch.Tensor | None,
) -> torch.Tensor:
    """Return queries or keys normed, and rotated where they are video.

    Args:
        heads: ``(batch, rows, num_heads, head_dim)``.
        norm: For video rows; None: none.
        text_norm: For text rows.
        rotary_emb: Cosines and sines, each ``(num_video, head_dim)``.
        num_video: Video tokens of the sequence; text stands after them.
        indices: Positions of the rows, or None for all of them in order.
    """
    if indices is None:
        video, text = _normed(norm, heads[:, :num_video]), _normed(text_norm, heads[:, num_video:])
        return torch.cat([video if rotary_emb is None else rotate(video, rotary_emb), text], 1)
    # A row is computed as both and one of them taken: rows asked for by position are few.
    video, text = _normed(norm, heads), _normed(text_norm, heads)
    if rotary_emb is not None:
        places = indices.clamp(max=num_video - 1)
        cosine, sine = rotary_emb
        video = rotate(video, (cosine.index_select(0, places), sine.index_select(0, places)))
    return torch.where((indices < num_video)[:, None, None], video, text)


def _normed(norm: torch.nn.Module | None, heads: torch.Tensor) -> torch.Tensor:
    return heads if norm is None else norm(heads)


def rotate(heads: torch.Tensor, rotary_emb: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Apply HunyuanVideo's rotary embedding, adjacent channels paired, in float32.

    Args:
        heads: ``(batch, rows, num_heads, head_dim)``.
        rotary_emb: Cosines and sines, each ``(rows, head_dim)``, every value given twice.
    """
    cosine, sine = (table[:, None, :] for table in rotary_emb)
    turned = torch.stack((-heads[..., 1::2], heads[..., 0::2]), dim=-1).flatten(-2)
    return (heads.float() * cosine + turned.float() * sine).to(heads.dtype)
