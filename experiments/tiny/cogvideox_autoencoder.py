"""CogVideoX's video autoencoder, small: 4 x 4 x 2, eight frames at a time as the pipeline works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from torch import nn

from experiments.tiny import channels_last, initialise

LATENT_CHANNELS = 16


def build(seed: int = 0, widths: tuple[int, int, int] = (24, 48, 96), groups: int = 2) -> AutoencoderKLCogVideoX:
    """Return an untrained autoencoder; see ``experiments.tiny.initialise`` for how it begins.

    The decoder's norms, which latents scale and shift, begin as plain group norms.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=widths,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=2,
        norm_num_groups=groups,
        temporal_compression_ratio=2,
        sample_height=96,
        sample_width=160,
        scaling_factor=1.0,
    )
    initialise.convolutions(vae, (".conv2.conv",))
    initialise.posterior(vae.encoder.conv_out.conv)
    for norm in vae.decoder.modules():
        if isinstance(norm, CogVideoXSpatialNorm3D):
            norm.conv_y.conv.weight.data.mul_(0.1)
            norm.conv_b.conv.weight.data.mul_(0.1)
            nn.init.ones_(norm.conv_y.conv.bias)
    return vae


def normalise(vae: AutoencoderKLCogVideoX, deviation: torch.Tensor) -> None:
    """Fold the latents' deviation per channel into the autoencoder, whose pipeline has no place for it.

    Their mean stays, since the decoder pads with zeros; training draws it to zero.
    """
    out = vae.encoder.conv_out.conv
    into = [vae.decoder.conv_in.conv]
    for norm in vae.decoder.modules():
        if isinstance(norm, CogVideoXSpatialNorm3D):
            into += [norm.conv_y.conv, norm.conv_b.conv]
    with torch.no_grad():
        for convolution in into:
            convolution.weight.mul_(deviation.view(1, -1, 1, 1, 1))
        out.weight[:LATENT_CHANNELS].div_(deviation.view(-1, 1, 1, 1, 1))
        out.bias[:LATENT_CHANNELS].div_(deviation)
        out.bias[LATENT_CHANNELS:].sub_(2 * deviation.log())


def make_fast(vae: AutoencoderKLCogVideoX) -> None:
    """Prepare for training on a GPU; the result is the same."""
    channels_last.prepare(vae, _FORWARDS)


def _spatial_norm(
    norm: CogVideoXSpatialNorm3D, x: torch.Tensor, latents: torch.Tensor, conv_cache: dict | None = None
) -> tuple[torch.Tensor, dict]:
    """Scale and shift at the latents' size and spread the result: the convolutions see one latent pixel each."""
    scale, shift = (_spread(part.conv(latents), x) for part in (norm.conv_y, norm.conv_b))
    return torch.addcmul(shift, norm.norm_layer(x), scale), {}


def _spread(part: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Repeat latent pixels and frames to the size of ``x``; of an odd number of frames the first stays one."""
    frames, space = x.shape[2], x.shape[3] // part.shape[3]
    if frames > 1 and frames % 2 == 1:
        first, rest = part[:, :, :1], part[:, :, 1:]
        time = (frames - 1) // rest.shape[2]
        return torch.cat([channels_last.upsample(first, 1, space), channels_last.upsample(rest, time, space)], 2)
    return channels_last.upsample(part, frames // part.shape[2], space)


_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.GroupNorm: channels_last.group_norm,
    CogVideoXSpatialNorm3D: _spatial_norm,
}
