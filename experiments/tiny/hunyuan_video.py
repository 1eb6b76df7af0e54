"""HunyuanVideo, small: text-to-video by flow matching, text in the self-attention, guidance as a number it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

from experiments.tiny import flow, hunyuan_video_autoencoder, hunyuan_video_words, initialise
from experiments.tiny.clips import Scene
from experiments.tiny.family import Batch, Family, Parts
from experiments.tiny.hunyuan_video_autoencoder import LATENT_CHANNELS
from experiments.tiny.hunyuan_video_words import CAPTION_TOKENS, CROP

TEXT_WIDTH, POOLED_WIDTH, POOLED_LENGTH, TEXT_LENGTH = 128, 64, 16, 32
# The pipeline takes what the layer before the last two puts out.
SKIPPED_LAYERS = 2
SHIFT = 3.0
# From this share of the time on, the transformer is taught to guide itself at a scale up to the greatest.
GUIDED_FROM, GREATEST_GUIDANCE = 0.75, 8.0


@dataclass(frozen=True, kw_only=True)
class HunyuanVideo(Family):
    """Its autoencoder quarters time: 65 frames, the clips at twice the rate, are 17 latent ones of 240 tokens.

    Args:
        widths: Channels of the autoencoder, from full resolution down.
    """

    num_frames: int = 65
    # The pipeline encodes and decodes 17 frames at a time; its group norms see no more.
    windows: tuple[tuple[float, int], ...] = ((0.6, 9), (1.0, 17))
    window_batch: int = 6
    stages: tuple[tuple[float, int, int], ...] = ((0.2, 5, 128), (1.0, 17, 40))
    widths: tuple[int, int, int] = (24, 48, 96)

    pipeline: ClassVar[str] = "HunyuanVideoPipeline"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    patch: ClassVar[tuple[int, int, int]] = (1, 2, 2)
    # Unknown words, as many as a caption has tokens: so all rows are equally long and nothing is masked.
    no_caption: ClassVar[str] = " ".join(["nothing"] * CAPTION_TOKENS)

    def build_autoencoder(self, seed: int) -> Any:
        return hunyuan_video_autoencoder.build(seed, self.widths)

    def make_fast(self, vae: Any) -> None:
        hunyuan_video_autoencoder.make_fast(vae)

    def normalise(self, vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hunyuan_video_autoencoder.normalise(vae, mean, deviation)
        return mean, deviation

    def build_tokenizers(self) -> dict[str, Any]:
        return {"tokenizer": hunyuan_video_words.tokenizer(), "tokenizer_2": hunyuan_video_words.pooled_tokenizer()}

    def build_parts(self, tokenizers: dict[str, Any]) -> Parts:
        return Parts(
            text_encoder=build_text_encoder(len(tokenizers["tokenizer"])),
            text_encoder_2=build_pooled_encoder(len(tokenizers["tokenizer_2"])),
            transformer=build_transformer(),
        )

    def tokens(self, tokenizers: dict[str, Any], texts: list[str]) -> dict[str, torch.Tensor]:
        filled = [DEFAULT_PROMPT_TEMPLATE["template"].format(text) for text in texts]
        rows = tokenizers["tokenizer"](filled)["input_ids"]
        assert all(len(row) == CROP + CAPTION_TOKENS + 1 for row in rows)
        pooled = tokenizers["tokenizer_2"](texts, padding="max_length", max_length=POOLED_LENGTH)["input_ids"]
        return {"ids": torch.tensor(rows), "pooled_ids": torch.tensor(pooled)}

    def prepare(self, parts: Any) -> Any:
        for block in (*parts.transformer.transformer_blocks, *parts.transformer.single_transformer_blocks):
            block.attn.set_processor(_Unmasked(block.attn.processor))
        return parts

    def loss(self, parts: Any, batch: Batch) -> torch.Tensor:
        """Return the error of the velocity; late in training of the velocity under guidance.

        What is predicted at guidance ``g`` is drawn to ``velocity + (1 - 1 / g) (prediction - prediction of no
        caption)``, which only classifier-free guidance of scale ``g`` satisfies. Source: arXiv:2502.12154.
        """
        noisy, sigma, velocity = flow.noised(batch.clean, SHIFT, batch.generator)
        plain = torch.ones_like(sigma)
        if batch.share < GUIDED_FROM:
            return (predict(parts, noisy, sigma, batch.tokens, plain) - velocity).square().mean()
        drawn = torch.rand(len(sigma), generator=batch.generator, device=sigma.device)
        scale = torch.where(batch.is_dropped, plain, 1 + (GREATEST_GUIDANCE - 1) * drawn)
        prediction = predict(parts, noisy, sigma, batch.tokens, scale)
        with torch.no_grad():
            nothing = {name: row.expand(len(sigma), -1) for name, row in batch.no_caption.items()}
            difference = prediction.detach() - predict(parts, noisy, sigma, nothing, plain)
            target = velocity + (1 - 1 / scale).view(-1, 1, 1, 1, 1) * difference
        return (prediction - target).square().mean()

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)

    def call(self, scenes: list[Scene], seeds: list[int]) -> dict[str, Any]:
        return {"max_sequence_length": TEXT_LENGTH}


class _Unmasked:
    """Runs a block's attention without the mask of the text's padding: training has none."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        return self._stock(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)


def predict(
    parts: Any, noisy: torch.Tensor, sigma: torch.Tensor, tokens: dict[str, torch.Tensor], guidance: torch.Tensor
) -> torch.Tensor:
    """Return the velocity, float32, encoding captions as the pipeline does; ``guidance`` has one scale an item."""
    encoded = parts.text_encoder(input_ids=tokens["ids"], output_hidden_states=True)
    text = encoded.hidden_states[-(SKIPPED_LAYERS + 1)][:, CROP:]
    return parts.transformer(
        hidden_states=noisy,
        timestep=sigma * 1000,
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(text.shape[:2], device=text.device),
        pooled_projections=parts.text_encoder_2(tokens["pooled_ids"]).pooler_output,
        guidance=guidance * 1000,
        return_dict=False,
    )[0].float()


def build_text_encoder(vocab_size: int) -> LlamaModel:
    """Return an untrained Llama: 2 layers that the pipeline uses and 2 that it skips, 4 heads x 32, width 128."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=256,
            num_hidden_layers=2 + SKIPPED_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=1024,
            pad_token_id=0,
        )
    )


def build_pooled_encoder(vocab_size: int) -> CLIPTextModel:
    """Return an untrained CLIP text encoder: 2 layers, 2 heads x 32, width 64."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=POOLED_WIDTH,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=POOLED_WIDTH,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def build_transformer(
    num_layers: int = 2, num_single_layers: int = 4, num_heads: int = 4, head_dim: int = 64
) -> HunyuanVideoTransformer3DModel:
    """Return an untrained transformer whose residual gates start open and whose output starts at zero."""
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=num_heads,
        attention_head_dim=head_dim,
        num_layers=num_layers,
        num_single_layers=num_single_layers,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        rope_axes_dim=(head_dim // 4, head_dim * 3 // 8, head_dim * 3 // 8),
    )
    for block in transformer.transformer_blocks:
        initialise.open_gates(block.norm1.linear, 6, (2, 5))
        initialise.open_gates(block.norm1_context.linear, 6, (2, 5))
    for block in transformer.single_transformer_blocks:
        initialise.open_gates(block.norm.linear, 3, (2,))
    for block in transformer.context_embedder.token_refiner.refiner_blocks:
        initialise.open_gates(block.norm_out.linear, 2, (0, 1))
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


FAMILY = HunyuanVideo()
