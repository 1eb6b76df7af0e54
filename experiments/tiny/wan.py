"""Wan 2.1, small: text-to-video by flow matching, text in a cross-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from torch import nn
from transformers import UMT5EncoderModel

from experiments.tiny import flow, wan_autoencoder, words
from experiments.tiny.clips import Scene
from experiments.tiny.family import Batch, Family, Parts, build_t5
from experiments.tiny.wan_autoencoder import LATENT_CHANNELS

TEXT_WIDTH, TEXT_LENGTH, LONG_TEXT_LENGTH = 128, 32, 512
SHIFT = 3.0


@dataclass(frozen=True, kw_only=True)
class Wan(Family):
    """Its autoencoder halves time: 33 frames are 17 latent ones of 240 tokens.

    Args:
        base_dim: Channels of the autoencoder at full resolution.
    """

    num_frames: int = 33
    # Short windows are cheap; long ones teach what the causal convolutions carry along.
    windows: tuple[tuple[float, int], ...] = ((0.4, 9), (1.0, 33))
    window_batch: int = 4
    stages: tuple[tuple[float, int, int], ...] = ((0.14, 5, 64), (0.24, 9, 32), (1.0, 17, 16))
    base_dim: int = 24

    pipeline: ClassVar[str] = "WanPipeline"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    patch: ClassVar[tuple[int, int, int]] = (1, 2, 2)

    def build_autoencoder(self, seed: int) -> Any:
        return wan_autoencoder.build(seed, self.base_dim)

    def make_fast(self, vae: Any) -> None:
        wan_autoencoder.make_fast(vae)

    def posterior(self, vae: Any, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return wan_autoencoder.posterior(vae, video)

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return wan_autoencoder.decode(vae, latents)

    def normalise(self, vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
        return mean, deviation

    def statistics(self, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)

    def build_tokenizers(self) -> dict[str, Any]:
        return {"tokenizer": words.tokenizer()}

    def build_parts(self, tokenizers: dict[str, Any]) -> Parts:
        text_encoder = build_t5(UMT5EncoderModel, TEXT_WIDTH, len(tokenizers["tokenizer"]))
        return Parts(text_encoder=text_encoder, transformer=build_transformer())

    def tokens(self, tokenizers: dict[str, Any], texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = tokenizers["tokenizer"](texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True)
        return {"ids": torch.tensor(encoded["input_ids"])}

    def loss(self, parts: Any, batch: Batch) -> torch.Tensor:
        is_whole = batch.clean.shape[2] == self.latent_frames
        # Long padding now and then teaches the transformer to look past it: the pipeline pads to 512 by default.
        length = LONG_TEXT_LENGTH if is_whole and batch.numbers.random() < 0.2 else TEXT_LENGTH
        noisy, sigma, velocity = flow.noised(batch.clean, SHIFT, batch.generator)
        prediction = parts.transformer(
            hidden_states=noisy,
            timestep=sigma * 1000,
            encoder_hidden_states=encode_text(parts.text_encoder, batch.tokens["ids"], length),
            return_dict=False,
        )[0]
        return (prediction.float() - velocity).square().mean()

    def scheduler(self) -> Any:
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
        )

    def call(self, scenes: list[Scene], seeds: list[int]) -> dict[str, Any]:
        return {"max_sequence_length": TEXT_LENGTH}


def encode_text(text_encoder: UMT5EncoderModel, ids: torch.Tensor, length: int) -> torch.Tensor:
    """Encode token rows as the pipeline does: padding zeroed, to ``length`` positions."""
    mask = ids != 0
    hidden = text_encoder(ids, attention_mask=mask.long()).last_hidden_state
    return nn.functional.pad(hidden * mask[..., None], (0, 0, 0, length - ids.shape[1]))


def build_transformer(num_layers: int = 6, num_heads: int = 4, head_dim: int = 64, ffn_dim: int = 1024):
    """Return an untrained WanTransformer3DModel whose residual gates start open and whose output starts at zero."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=num_heads,
        attention_head_dim=head_dim,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=ffn_dim,
        num_layers=num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table[:, (2, 5)] = 1.0
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()
    return transformer


FAMILY = Wan()
