"""Flow matching: noised latents, and the velocity that a transformer learns to predict."""

from __future__ import annotations

import torch


def noised(
    clean: torch.Tensor, shift: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noisy latents, how much noise is in each, in (0, 1), and the velocity from clean to noise.

    Args:
        clean: ``(batch, ...)``.
        shift: Of the noise's share, as the sampler's: from 1, higher is noisier.
        generator: Of noise and shares, on the latents' device.
    """
    sigma = torch.randn(len(clean), generator=generator, device=clean.device).sigmoid()
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    mix = sigma.view(-1, *[1] * (clean.dim() - 1))
    return (1 - mix) * clean + mix * noise, sigma, noise - clean
