"""Floating point operations of a generation: attention from the plans that ran, the rest counted once without data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map

PETA = 1e15


def attention_flops(seq_len: int, width: int, density: float = 1.0) -> float:
    """Return the operations of one self-attention call, 4 * seq_len^2 * width * density: two products, two each.

    Args:
        seq_len: Queries, and keys.
        width: Heads times channels of a head, over the whole batch.
        density: Share of the pairs that is computed, tile by tile.
    """
    return 4.0 * seq_len * seq_len * width * density


def forward_flops(transformer: Any, inputs: Mapping[str, Any]) -> float:
    """Return the operations of one dense forward: all matrix products, attention included.

    Runs a copy without weights on shapes alone, so it costs next to nothing at any size.

    Args:
        transformer: A diffusers transformer.
        inputs: The keyword arguments of one forward; of tensors only shape and type are used.
    """

    # It loads a compiler, which what only needs a formula should not wait for.
    from torch.utils.flop_counter import FlopCounterMode

    def shape_only(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        # One precision throughout: the copy's. Operations are counted, not timed.
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        return torch.empty_like(value, device="meta", dtype=dtype)

    with torch.device("meta"):
        copy = type(transformer).from_config(transformer.config).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy(**tree_map(shape_only, dict(inputs)))
    return float(counter.get_total_flops())


def video_pflops(
    forward: float, seq_len: int, width: int, num_layers: int, densities: Iterable[float]
) -> tuple[float, float]:
    """Return a generation's (dense, executed) operations, in PFLOP: transformer only, profiling not counted.

    Args:
        forward: Operations of one dense forward, from ``forward_flops``.
        seq_len, width: Of one attention call; see ``attention_flops``.
        num_layers: Attention calls of one forward.
        densities: Computed share of every attention call of the generation, whole forwards.
    """
    densities = list(densities)
    if len(densities) % num_layers:
        raise ValueError(f"{len(densities)} attention calls are not whole forwards of {num_layers} layers")
    forwards = len(densities) // num_layers
    rest = forwards * (forward - num_layers * attention_flops(seq_len, width))
    dense = forwards * forward
    return dense / PETA, (rest + sum(attention_flops(seq_len, width, density) for density in densities)) / PETA
