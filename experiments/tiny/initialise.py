"""How an untrained video autoencoder begins: it keeps the scale of what passes through it, with little noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Of a residual branch's last convolution and of the decoder's, beside fan-in.
BRANCH_GAIN = 0.2
# Where the posterior's log-variance starts; at diffusers' 0 the decoder sees mostly noise.
LOG_VARIANCE = -6.0


def convolutions(vae: nn.Module, branch_ends: tuple[str, ...]) -> None:
    """Draw every convolution by fan-in, a residual branch's last one and the decoder's smaller.

    Args:
        vae: An autoencoder with ``decoder.conv_out``, in place.
        branch_ends: What the names of the residual branches' last convolutions end in.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(branch_ends) or name.startswith("decoder.conv_out"):
                module.weight.data.mul_(BRANCH_GAIN)


def posterior(convolution: Any) -> None:
    """Begin with little noise: ``convolution`` puts out means, then as many log-variances."""
    channels = convolution.out_channels // 2
    with torch.no_grad():
        convolution.weight[channels:].mul_(0.1)
        convolution.bias[channels:].fill_(LOG_VARIANCE)


def open_gates(modulation: nn.Linear, count: int, gates: tuple[int, ...]) -> None:
    """Let a transformer's residual branches begin open: add 1 to what gates them.

    Args:
        modulation: Puts out ``count`` shifts, scales and gates side by side.
        count: How many.
        gates: Which of them gate a branch.
    """
    with torch.no_grad():
        modulation.bias.view(count, -1)[list(gates)] += 1
