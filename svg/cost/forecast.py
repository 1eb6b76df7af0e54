"""What a generation will cost, from its sizes and its plans, before anything is loaded: operations and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svg.cost.flops import attention_flops
from svg.plan import HeadPattern

MIB = 2**20


@dataclass(frozen=True)
class TransformerSize:
    """Sizes of a video transformer; one forward has ``num_layers`` self-attention calls.

    Args:
        num_layers: Blocks.
        width: Heads times channels of a head.
        ffn_dim: Width of the feed-forward network's hidden layer.
        cross_dim: Channels of a text token in cross-attention; None where text stands in self-attention.
        num_cross_tokens: Tokens that cross-attention looks at, text and image.
    """

    num_layers: int
    width: int
    ffn_dim: int
    cross_dim: int | None = None
    num_cross_tokens: int = 0

    def attention_flops(self, seq_len: int) -> float:
        """Return the operations of the self-attention of one dense forward."""
        return self.num_layers * attention_flops(seq_len, self.width)

    def other_flops(self, seq_len: int) -> float:
        """Return the operations of everything else in its blocks: projections, feed-forward, cross-attention.

        Embeddings, modulation and the output layer, below one percent together at real sizes, are left out.
        """
        width = self.width
        # Query, key, value and output; the feed-forward network's two layers.
        flops = seq_len * (8.0 * width * width + 4.0 * width * self.ffn_dim)
        if self.cross_dim is not None:
            flops += 4.0 * seq_len * width * width + 4.0 * self.num_cross_tokens * self.cross_dim * width
            flops += 4.0 * seq_len * self.num_cross_tokens * width
        return self.num_layers * flops


def sparse_share(num_steps: int, num_layers: int, dense_steps: int, dense_layers: int) -> float:
    """Return the share of a generation's attention calls that is sparse."""
    steps, layers = min(dense_steps, num_steps), min(dense_layers, num_layers)
    return (1 - steps / num_steps) * (1 - layers / num_layers)


def plan_bytes(patterns: Sequence[HeadPattern]) -> int:
    """Return the bytes of a palette: tile maps, orders, and the lists of tiles that kernels read; shared ones once."""
    tensors: dict[int, torch.Tensor] = {}
    for pattern in patterns:
        held = [pattern.query_order, pattern.key_order]
        if pattern.mask is not None:
            mask = pattern.mask
            held += [mask.query_offsets, mask.key_offsets, mask.tile_map, *mask.full, *mask.partial]
        tensors |= {tensor.data_ptr(): tensor for tensor in held if tensor is not None}
    return sum(tensor.nbytes for tensor in tensors.values())
