"""What training a tiny model needs to know of its family: one file per family holds a class of this kind."""

from __future__ import annotations

import importlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from experiments.tiny import clips

FAMILIES = ("wan", "hunyuan_video", "cogvideox_i2v")
# Pixels of a latent, in height and width.
SPATIAL = 4


class Parts(nn.Module):
    """The trained parts of a pipeline, named as the pipeline names them: text encoders and the transformer."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


@dataclass(frozen=True)
class Batch:
    """What a family's loss is computed from.

    Args:
        clean: Latents of mean 0 and deviation 1, ``(batch, channels, frames, height, width)``.
        tokens: ``Family.tokens`` of the captions, of no caption where one was dropped; ``(batch, length)`` each.
        no_caption: The same of no caption, ``(1, length)`` each.
        is_dropped: Whose caption was dropped, ``(batch,)``.
        share: Of the training's time that is over, in [0, 1].
        generator: Of noise and times.
        numbers: Of what is decided for the whole batch.
    """

    clean: torch.Tensor
    tokens: dict[str, torch.Tensor]
    no_caption: dict[str, torch.Tensor]
    is_dropped: torch.Tensor
    share: float
    generator: torch.Generator
    numbers: random.Random


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """How one family of diffusers is built small, trained and put together.

    Args:
        num_frames: Of a clip.
        windows: What the autoencoder trains on: (until share of time, frames).
        window_batch: Windows of the first kind in a step; fewer of longer ones.
        stages: What the transformer trains on: (until share of time, latent frames, batch); short prefixes teach colour
            and shape cheaply, whole clips motion.
    """

    num_frames: int
    windows: tuple[tuple[float, int], ...]
    window_batch: int
    stages: tuple[tuple[float, int, int], ...]

    # Class of the pipeline in diffusers, and its parts that are trained beside the transformer.
    pipeline: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]]
    # Latent frames, rows and columns of a token.
    patch: ClassVar[tuple[int, int, int]]
    # What stands for a dropped caption.
    no_caption: ClassVar[str] = ""
    # Whether training draws the latents' mean to zero, for a pipeline that has no place for it.
    centres_latents: ClassVar[bool] = False
    # Steps and guidance that the finished model is judged at.
    samplings: ClassVar[tuple[tuple[int, float], ...]] = ((20, 3.0), (20, 5.0), (10, 4.0))

    @property
    def latent_frames(self) -> int:
        """Of what the transformer denoises for a whole clip."""
        return self.stages[-1][1]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the initial noise of one video, as the pipeline takes it."""
        return (16, self.latent_frames, clips.HEIGHT // SPATIAL, clips.WIDTH // SPATIAL)

    @abstractmethod
    def build_autoencoder(self, seed: int) -> Any:
        """Return an untrained autoencoder."""

    @abstractmethod
    def make_fast(self, vae: Any) -> None:
        """Prepare an autoencoder for training on a GPU; the result is the same."""

    def posterior(self, vae: Any, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance, float32, of ``(batch, 3, frames, height, width)`` in [-1, 1]."""
        posterior = vae.encode(video).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Return the video, float32, without a clamp."""
        return vae.decode(latents).sample.float()

    def encode(self, vae: Any, video: torch.Tensor) -> torch.Tensor:
        """Return what the transformer learns to make of clips in [-1, 1], before it is normalised."""
        return self.posterior(vae, video)[0]

    @abstractmethod
    def normalise(self, vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the pipeline undo the normalisation of latents by their mean and deviation per channel.

        Returns:
            The mean and deviation that it undoes, and that are to be taken from the latents.
        """

    def statistics(self, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and deviation per channel that are still to be taken from a normalised autoencoder's."""
        channels = vae.config.latent_channels
        return torch.zeros(channels), torch.ones(channels)

    @abstractmethod
    def build_tokenizers(self) -> dict[str, Any]:
        """Return the pipeline's tokenizers by name."""

    @abstractmethod
    def build_parts(self, tokenizers: dict[str, Any]) -> Parts:
        """Return untrained text encoders and transformer."""

    @abstractmethod
    def tokens(self, tokenizers: dict[str, Any], texts: list[str]) -> dict[str, torch.Tensor]:
        """Return what the text encoders are given, by names of this family's own, ``(texts, length)`` each."""

    def prepare(self, parts: Any) -> Any:
        """Return the parts as they are trained; nothing of it is exported."""
        return parts

    @abstractmethod
    def loss(self, parts: Any, batch: Batch) -> torch.Tensor:
        """Return the mean squared error of the transformer's prediction."""

    @abstractmethod
    def scheduler(self) -> Any:
        """Return the pipeline's scheduler."""

    def call(self, scenes: list[clips.Scene], seeds: list[int]) -> dict[str, Any]:
        """Return what the pipeline is called with for these scenes beside caption, size, steps, guidance and noise."""
        return {}


def get(name: str) -> Family:
    """Return a family as it is trained."""
    return importlib.import_module(f"experiments.tiny.{name}").FAMILY


def folder(name: str) -> Path:
    """Return where a family's trained model lies."""
    return Path("assets") / f"tiny_{name}"


def blocks(transformer: nn.Module) -> dict[str, nn.Module]:
    """Return the repeated blocks of a transformer by their names in it."""
    lists = [(name, child) for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)]
    return {f"{name}.{index}": block for name, child in lists for index, block in enumerate(child)}


def build_t5(kind: Any, width: int, vocab_size: int) -> Any:
    """Return an untrained encoder of the class ``kind``, T5's or UMT5's: 2 layers, 4 heads x 32."""
    return kind(
        kind.config_class(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
