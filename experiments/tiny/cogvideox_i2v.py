"""CogVideoX 1.5 image-to-video, small: v-prediction beside the image's latents, text first in the self-attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from PIL import Image
from torch import nn
from transformers import T5EncoderModel

from experiments.tiny import clips, cogvideox_autoencoder, initialise, words
from experiments.tiny.cogvideox_autoencoder import LATENT_CHANNELS
from experiments.tiny.family import SPATIAL, Batch, Family, Parts, build_t5

TEXT_WIDTH, TEXT_LENGTH, LONG_TEXT_LENGTH = 128, 32, 226
# What the pipeline of version 1.5 hands over as offset.
OFFSET = 2.0
# Noise that the image gets in training: mean and deviation of its deviation's logarithm, as CogVideoX trains on pixels.
IMAGE_NOISE = (-3.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class CogVideoXImageToVideo(Family):
    """Its autoencoder halves time and its tokens halve it again: 17 frames of 240 tokens.

    65 frames, the clips at twice the rate, are 33 latent ones; the image's latents stand before them, where the
    pipeline fills up to an even number.

    Args:
        widths: Channels of the autoencoder, from full resolution down.
    """

    num_frames: int = 65
    # The pipeline encodes 9 frames and then 8 at a time; its group norms see no more.
    windows: tuple[tuple[float, int], ...] = ((0.6, 9), (1.0, 17))
    window_batch: int = 8
    stages: tuple[tuple[float, int, int], ...] = ((0.14, 6, 64), (0.24, 18, 32), (1.0, 34, 16))
    widths: tuple[int, int, int] = (24, 48, 96)

    pipeline: ClassVar[str] = "CogVideoXImageToVideoPipeline"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    patch: ClassVar[tuple[int, int, int]] = (2, 2, 2)
    centres_latents: ClassVar[bool] = True

    @property
    def noise_shape(self) -> tuple[int, ...]:
        channels, *sizes = super().noise_shape
        return (sizes[0], channels, *sizes[1:])

    def build_autoencoder(self, seed: int) -> Any:
        return cogvideox_autoencoder.build(seed, self.widths)

    def make_fast(self, vae: Any) -> None:
        cogvideox_autoencoder.make_fast(vae)

    def encode(self, vae: Any, video: torch.Tensor) -> torch.Tensor:
        """Return the latents of the first frame alone, as the pipeline encodes the image, then the clip's."""
        image, _ = self.posterior(vae, video[:, :, :1])
        clip, _ = self.posterior(vae, video)
        return torch.cat([image, clip], 2)

    def normalise(self, vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cogvideox_autoencoder.normalise(vae, deviation)
        return torch.zeros_like(mean), deviation

    def build_tokenizers(self) -> dict[str, Any]:
        return {"tokenizer": words.tokenizer()}

    def build_parts(self, tokenizers: dict[str, Any]) -> Parts:
        text_encoder = build_t5(T5EncoderModel, TEXT_WIDTH, len(tokenizers["tokenizer"]))
        return Parts(text_encoder=text_encoder, transformer=build_transformer(self.num_frames))

    def tokens(self, tokenizers: dict[str, Any], texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = tokenizers["tokenizer"](texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True)
        return {"ids": torch.tensor(encoded["input_ids"])}

    def loss(self, parts: Any, batch: Batch) -> torch.Tensor:
        clean, generator, device = batch.clean, batch.generator, batch.clean.device
        schedule = _schedule()
        steps = schedule.config.num_train_timesteps
        timestep = torch.randint(steps, (len(clean),), generator=generator, device=device)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        velocity = schedule.get_velocity(clean, noise, timestep)
        first = clean[:, :, :1]
        mean, deviation = IMAGE_NOISE
        level = torch.randn((len(clean), 1, 1, 1, 1), generator=generator, device=device).mul(deviation).add(mean).exp()
        image = torch.zeros_like(clean)
        image[:, :, :1] = first + level * torch.randn(first.shape, generator=generator, device=device)
        # Padding is attended to here; now and then there is as much as the pipeline pads to by default.
        is_whole = clean.shape[2] == self.latent_frames
        length = LONG_TEXT_LENGTH if is_whole and batch.numbers.random() < 0.2 else TEXT_LENGTH
        ids = nn.functional.pad(batch.tokens["ids"], (0, length - TEXT_LENGTH))
        prediction = parts.transformer(
            # The pipeline's latents have frames before channels.
            hidden_states=torch.cat([schedule.add_noise(clean, noise, timestep), image], 1).transpose(1, 2),
            encoder_hidden_states=parts.text_encoder(ids).last_hidden_state,
            timestep=timestep,
            ofs=torch.full((1,), OFFSET, device=device),
            image_rotary_emb=rotary_embedding(parts.transformer.config, tuple(clean.shape[2:]), device),
            return_dict=False,
        )[0]
        return (prediction.transpose(1, 2).float() - velocity).square().mean()

    def scheduler(self) -> Any:
        return CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            snr_shift_scale=1.0,
        )

    def call(self, scenes: list[clips.Scene], seeds: list[int]) -> dict[str, Any]:
        return {
            "image": [first_frame(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)],
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "max_sequence_length": TEXT_LENGTH,
        }


def first_frame(scene: clips.Scene, seed: int) -> Image.Image:
    """Return the picture that a scene's clip begins with."""
    frame = clips.draw([scene], seed)[0, :, 0].permute(1, 2, 0)
    return Image.fromarray((frame * 255).round().to(torch.uint8).numpy())


@lru_cache(maxsize=1)
def _schedule() -> Any:
    return FAMILY.scheduler()


@lru_cache
def _rotary(
    head_dim: int, sizes: tuple[int, int, int], greatest: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    return get_3d_rotary_pos_embed(
        head_dim, None, sizes[1:], sizes[0], grid_type="slice", max_size=greatest, device=device
    )


def rotary_embedding(config: Any, sizes: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines ``(tokens, head_dim)`` of latents of these frames, rows and columns, as the pipeline."""
    frames, height, width = sizes
    patch, patch_t = config.patch_size, config.patch_size_t
    greatest = (config.sample_height // patch, config.sample_width // patch)
    return _rotary(config.attention_head_dim, (frames // patch_t, height // patch, width // patch), greatest, device)


def build_transformer(
    num_frames: int, num_layers: int = 6, num_heads: int = 4, head_dim: int = 64, condition_width: int = 128
) -> CogVideoXTransformer3DModel:
    """Return an untrained transformer whose residual gates start open and whose output starts at zero."""
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=num_heads,
        attention_head_dim=head_dim,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=condition_width,
        ofs_embed_dim=condition_width,
        text_embed_dim=TEXT_WIDTH,
        num_layers=num_layers,
        sample_width=clips.WIDTH // SPATIAL,
        sample_height=clips.HEIGHT // SPATIAL,
        sample_frames=num_frames,
        patch_size=2,
        patch_size_t=2,
        temporal_compression_ratio=2,
        max_text_seq_length=LONG_TEXT_LENGTH,
        use_rotary_positional_embeddings=True,
        patch_bias=False,
    )
    for block in transformer.transformer_blocks:
        initialise.open_gates(block.norm1.linear, 6, (2, 5))
        initialise.open_gates(block.norm2.linear, 6, (2, 5))
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


FAMILY = CogVideoXImageToVideo()
