"""HunyuanVideo's video autoencoder, small: 4 x 4 x 4, in the windows of 17 frames that the pipeline works in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
    HunyuanVideoCausalConv3d,
    HunyuanVideoResnetBlockCausal3D,
    HunyuanVideoUpsampleCausal3D,
)
from torch import nn

from experiments.tiny import channels_last, initialise

LATENT_CHANNELS = 16


def build(seed: int = 0, widths: tuple[int, int, int] = (24, 48, 96), groups: int = 2) -> AutoencoderKLHunyuanVideo:
    """Return an untrained autoencoder; see ``experiments.tiny.initialise`` for how it begins."""
    torch.manual_seed(seed)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=LATENT_CHANNELS,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=widths,
        layers_per_block=2,
        norm_num_groups=groups,
        spatial_compression_ratio=4,
        # Its mask holds every pair of latent pixels.
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    initialise.convolutions(vae, (".conv2.conv",))
    initialise.posterior(vae.quant_conv)
    return vae


def normalise(vae: AutoencoderKLHunyuanVideo, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Fold the latents' mean and deviation per channel into the autoencoder, whose config has no place for them."""
    with torch.no_grad():
        out, into = vae.quant_conv, vae.post_quant_conv
        into.bias.add_(into.weight[:, :, 0, 0, 0] @ mean)
        into.weight.mul_(deviation.view(1, -1, 1, 1, 1))
        out.bias[:LATENT_CHANNELS].sub_(mean).div_(deviation)
        out.weight[:LATENT_CHANNELS].div_(deviation.view(-1, 1, 1, 1, 1))
        out.bias[LATENT_CHANNELS:].sub_(2 * deviation.log())


def make_fast(vae: AutoencoderKLHunyuanVideo) -> None:
    """Prepare for training on a GPU; the result is the same."""
    channels_last.prepare(vae, _FORWARDS)


def _convolve(module: HunyuanVideoCausalConv3d, x: torch.Tensor) -> torch.Tensor:
    width, _, height, _, time, _ = module.time_causal_padding
    return module.conv(channels_last.replicating_pad(x, time, height, width) if time else x)


def _residual(module: HunyuanVideoResnetBlockCausal3D, x: torch.Tensor) -> torch.Tensor:
    hidden = module.conv1(module.nonlinearity(module.norm1(x)))
    hidden = module.conv2(module.nonlinearity(module.norm2(hidden)))
    return hidden + (x if module.conv_shortcut is None else module.conv_shortcut(x))


def _upsample(module: HunyuanVideoUpsampleCausal3D, x: torch.Tensor) -> torch.Tensor:
    time, space, _ = module.upsample_factor
    first = channels_last.upsample(x[:, :, :1], 1, space)
    return module.conv(torch.cat([first, channels_last.upsample(x[:, :, 1:], time, space)], 2))


_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.GroupNorm: channels_last.group_norm,
    HunyuanVideoCausalConv3d: _convolve,
    HunyuanVideoResnetBlockCausal3D: _residual,
    HunyuanVideoUpsampleCausal3D: _upsample,
}
