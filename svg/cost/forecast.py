"""What a generation will cost, from its sizes and its plans, before anything is loaded: operations and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svg.cost.flops import attention_flops
from svg.plan import HeadPattern

MIB = 2**20


# Tensors of (tokens, width) that a block reads and writes between its matrix products at least, each step one pass:
# norm and modulation 2, norm and rotation of queries and keys 4, gate and residual 3. Activations and biases cost
# nothing here: a product can take them on in passing.
NORM, ROTATION, RESIDUAL = 2, 4, 3


# A product's name ends with it where both of its matrices are FP8.
FP8 = "_fp8"


@dataclass(frozen=True)
class Product:
    """A matrix product of one forward: ``(rows, inner) @ (inner, columns)``, ``count`` times."""

    name: str
    rows: int
    inner: int
    columns: int
    count: int

    @property
    def is_fp8(self) -> bool:
        """Whether both of its matrices are FP8."""
        return self.name.endswith(FP8)

    @property
    def flops(self) -> float:
        """Operations of all of them: two for each term."""
        return 2.0 * self.rows * self.inner * self.columns * self.count


@dataclass(frozen=True)
class TransformerSize:
    """Sizes of a video transformer; one forward has ``num_layers`` self-attention calls.

    Args:
        num_layers: Blocks.
        width: Heads times channels of a head.
        ffn_dim: Width of the feed-forward network's hidden layer.
        cross_dim: Channels of a text token in cross-attention; None where text stands in self-attention.
        num_cross_tokens: Tokens that cross-attention looks at, text and image.
        num_single_layers: Of the blocks, those whose feed-forward network stands beside attention, after one norm.
        is_fp8: Whether the layers that every video token goes through multiply in FP8.
    """

    num_layers: int
    width: int
    ffn_dim: int
    cross_dim: int | None = None
    num_cross_tokens: int = 0
    num_single_layers: int = 0
    is_fp8: bool = False

    def attention_flops(self, seq_len: int) -> float:
        """Return the operations of the self-attention of one dense forward."""
        return self.num_layers * attention_flops(seq_len, self.width)

    def other_flops(self, seq_len: int) -> float:
        """Return the operations of everything else in its blocks: projections, feed-forward, cross-attention.

        Embeddings, modulation and the output layer, below one percent together at real sizes, are left out.
        """
        return sum(product.flops for product in self.products(seq_len)) + self.cross_attention_flops(seq_len)

    def products(self, seq_len: int, batch: int = 1) -> list[Product]:
        """Return the matrix products of one forward of ``batch`` predictions; attention's own are not among them."""
        rows, width, layers = batch * seq_len, self.width, self.num_layers
        is_cross, form = self.cross_dim is not None, FP8 if self.is_fp8 else ""
        # Query, key, value and output; of cross-attention the query and the output.
        found = [
            Product(f"projection{form}", rows, width, width, (6 if is_cross else 4) * layers),
            Product(f"feed_forward_in{form}", rows, width, self.ffn_dim, layers),
            Product(f"feed_forward_out{form}", rows, self.ffn_dim, width, layers),
        ]
        if self.cross_dim is not None:
            found.append(Product("cross_projection", batch * self.num_cross_tokens, self.cross_dim, width, 2 * layers))
        return found

    def fp8_flops(self, seq_len: int) -> float:
        """Return those of ``other_flops`` that are computed in FP8."""
        return sum(product.flops for product in self.products(seq_len) if product.is_fp8)

    def video_weight_bytes(self, element_size: int) -> int:
        """Return the bytes of the weights that every video token is multiplied by.

        Args:
            element_size: Bytes of a number in the model's own precision; one in FP8 has 1.
        """
        size = 1 if self.is_fp8 else element_size
        found = [product for product in self.products(1) if product.name != "cross_projection"]
        return sum(product.inner * product.columns * product.count for product in found) * size

    def cross_attention_flops(self, seq_len: int) -> float:
        """Return the operations of the cross-attention of one forward."""
        return 4.0 * seq_len * self.num_cross_tokens * self.width * self.num_layers

    def moved_bytes(self, seq_len: int, element_size: int) -> float:
        """Return the bytes that one forward reads and writes between its matrix products at least."""
        passes = self.num_layers * (2 * NORM + ROTATION + 2 * RESIDUAL)
        passes -= self.num_single_layers * (NORM + RESIDUAL)
        if self.cross_dim is not None:
            # A norm before it, one of its queries, and the residual.
            passes += self.num_layers * (2 * NORM + RESIDUAL)
        return float(passes) * seq_len * self.width * element_size

    def attention_bytes(self, seq_len: int, element_size: int) -> float:
        """Return the bytes of queries, keys, values and outputs of the self-attention of one forward."""
        return 4.0 * self.num_layers * seq_len * self.width * element_size


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
