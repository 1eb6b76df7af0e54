"""What video autoencoders with group norms need to train fast on a GPU: activations that stay channels last.

torch's own group norm, replicating pad and upsampling bring them back into the other order, at every layer.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def prepare(network: nn.Module, forwards: Mapping[type[nn.Module], Callable[..., Any]]) -> None:
    """Lay every convolution's weights channels last, which makes its output so, and replace what would undo that.

    Args:
        network: Changed in place.
        forwards: What takes the place of a class's ``forward``, called with the module first.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            layout = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
            module.weight.data = module.weight.data.to(memory_format=layout)
        for kind, forward in forwards.items():
            if isinstance(module, kind):
                module.forward = types.MethodType(forward, module)


def group_norm(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Apply a group norm to ``(batch, channels, frames, height, width)``; statistics at least in float32."""
    with torch.autocast(x.device.type, enabled=False):
        rows = x.movedim(1, -1)
        flat = rows.flatten(1, 3)
        count = flat.shape[1] * (flat.shape[2] // norm.num_groups)

        def grouped(sums: torch.Tensor) -> torch.Tensor:
            means = sums.unflatten(1, (norm.num_groups, -1)).sum(2) / count
            return means.repeat_interleave(flat.shape[2] // norm.num_groups, 1)

        exact = torch.promote_types(x.dtype, torch.float32)
        mean = grouped(flat.sum(1, dtype=exact))
        square = grouped(torch.linalg.vector_norm(flat, dim=1, dtype=exact).square())
        scale = ((square - mean.square()).clamp(min=0) + norm.eps).rsqrt() * norm.weight
        shift = norm.bias - mean * scale
        scale, shift = (each.to(x.dtype)[:, None, None, None] for each in (scale, shift))
        return torch.addcmul(shift, rows, scale).movedim(-1, 1)


class _ReplicatingPad(torch.autograd.Function):
    """Repeats the first frame before, and the outermost rows and columns around, a video."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, time: int, height: int, width: int) -> torch.Tensor:
        ctx.sizes = (time, height, width)
        batch, channels, *sizes = x.shape
        frames, rows, columns = (size + pad for size, pad in zip(sizes, (time, 2 * height, 2 * width), strict=True))
        out = x.new_empty(batch, frames, rows, columns, channels).movedim(-1, 1)
        middle = out[:, :, time:, height : rows - height]
        middle[..., width : columns - width] = x
        middle[..., :width] = x[..., :1]
        middle[..., columns - width :] = x[..., -1:]
        late = out[:, :, time:]
        late[..., :height, :] = middle[..., :1, :]
        late[..., rows - height :, :] = middle[..., -1:, :]
        out[:, :, :time] = late[:, :, :1]
        return out

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        time, height, width = ctx.sizes
        late = gradient[:, :, time:].clone()
        late[:, :, 0] += gradient[:, :, :time].sum(2)
        rows, columns = late.shape[3:]
        middle = late[..., height : rows - height, :]
        middle[..., 0, :] += late[..., :height, :].sum(3)
        middle[..., -1, :] += late[..., rows - height :, :].sum(3)
        inner = middle[..., width : columns - width]
        inner[..., 0] += middle[..., :width].sum(4)
        inner[..., -1] += middle[..., columns - width :].sum(4)
        return inner, None, None, None


def replicating_pad(x: torch.Tensor, time: int, height: int, width: int) -> torch.Tensor:
    """Pad ``(batch, channels, frames, height, width)`` with its border: in time before the first frame only."""
    return _ReplicatingPad.apply(x, time, height, width)


def upsample(x: torch.Tensor, time: int, space: int) -> torch.Tensor:
    """Repeat every frame, row and column of ``(batch, channels, frames, height, width)`` so often."""
    rows = x.movedim(1, -1)[:, :, None, :, None, :, None]
    repeated = rows.expand(-1, -1, time, -1, space, -1, space, -1)
    return repeated.flatten(1, 2).flatten(2, 3).flatten(3, 4).movedim(-1, 1)
