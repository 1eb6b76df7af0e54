"""Wan's video autoencoder, small: 4 x 4 x 2."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import nn

from experiments.tiny import channels_last, initialise

LATENT_CHANNELS, SPATIAL, TEMPORAL = 16, 4, 2


def build(seed: int = 0, base_dim: int = 24) -> AutoencoderKLWan:
    """Return an untrained autoencoder; see ``experiments.tiny.initialise`` for how it begins."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=TEMPORAL,
        scale_factor_spatial=SPATIAL,
    )
    initialise.convolutions(vae, (".conv2", ".proj"))
    initialise.posterior(vae.quant_conv)
    return vae


def posterior(vae: AutoencoderKLWan, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and log-variance, float32; all frames after the first in one pass, not four by four.

    The network is causal, so its output does not depend on where the passes are cut.

    Args:
        vae: The autoencoder.
        video: ``(batch, 3, frames, height, width)`` in [-1, 1], 2n + 1 frames.
    """
    cache = [None] * count_causal_convolutions(vae.encoder)
    first = vae.encoder(video[:, :, :1], feat_cache=cache, feat_idx=[0])
    rest = vae.encoder(video[:, :, 1:], feat_cache=cache, feat_idx=[0])
    mean, log_variance = vae.quant_conv(torch.cat([first, rest], 2)).float().chunk(2, dim=1)
    return mean, log_variance


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Return the video in two passes, float32, without the clamp that ``vae.decode`` ends in."""
    hidden = vae.post_quant_conv(latents)
    cache = [None] * count_causal_convolutions(vae.decoder)
    first = vae.decoder(hidden[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
    rest = vae.decoder(hidden[:, :, 1:], feat_cache=cache, feat_idx=[0])
    return torch.cat([first, rest], 2).float()


def count_causal_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def make_fast(vae: AutoencoderKLWan) -> None:
    """Prepare for training on a GPU: weights and activations channels last, each norm one fused kernel."""
    channels_last.prepare(vae, {WanRMS_norm: _fused_norm})


def _fused_norm(norm: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        weight = norm.gamma.flatten().to(x.dtype)
        return nn.functional.rms_norm(x.movedim(1, -1), weight.shape, weight, eps=1e-12).movedim(-1, 1)
