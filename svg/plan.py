"""What a method decides about one attention call, as data, and the lazy inputs from which it decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from svg.block_mask import BlockMask
from svg.operations import TorchOperations
from svg.order import inverse
from svg.placement import resident, send


@dataclass(frozen=True, eq=False)
class HeadPattern:
    """One way for a head to attend: an order for its queries, one for its keys, and a mask in those orders.

    Args:
        name: ``"dense"``, ``"spatial"``, ``"temporal"`` or a method's own word; it names rows in the records.
        mask: The tiles to compute; None keeps everything.
        query_order: LongTensor ``(seq_len,)``, ordered[i] = original[order[i]]; None is the original order.
        key_order: The same for keys and values.
    """

    name: str
    mask: BlockMask | None = None
    query_order: torch.Tensor | None = None
    key_order: torch.Tensor | None = None

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether pairs of ORIGINAL positions are kept; positions broadcast, the result is bool."""
        if self.mask is None:
            return torch.ones(torch.broadcast_shapes(query.shape, key.shape), dtype=torch.bool, device=query.device)
        if self.query_position is not None:
            query = resident(self.query_position, query.device)[query]
        if self.key_position is not None:
            key = resident(self.key_position, key.device)[key]
        return self.mask.keep(query, key)

    @cached_property
    def query_position(self) -> torch.Tensor | None:
        """Where each token stands among the queries, LongTensor ``(seq_len,)``; None: where it was."""
        return None if self.query_order is None else inverse(self.query_order)

    @cached_property
    def key_position(self) -> torch.Tensor | None:
        """The same among the keys."""
        return None if self.key_order is None else inverse(self.key_order)


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """A palette of head patterns, and which one each head takes. Backends compute it; densities are counted from it.

    Its tensors must not change once it is made: their copies on a device are kept.

    Args:
        patterns: The palette, at least one.
        assignment: LongTensor ``(batch, num_heads)`` of indices into ``patterns``, either dimension 1 where shared.
        key_lengths: LongTensor ``(batch,)`` on the CPU, because densities are counted from it at every call: keys at or
            past it, in plan order, are padding and get no attention; None where the batch has no padding.
        diagnostics: Tensors by name, for the records: ``"error"`` ``(patterns, batch, num_heads)`` and the like. They
            stay on the device until the receipt is read.
    """

    patterns: tuple[HeadPattern, ...]
    assignment: torch.Tensor
    key_lengths: torch.Tensor | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.key_lengths is not None and self.key_lengths.device.type != "cpu":
            raise ValueError(
                f"key_lengths lie on {self.key_lengths.device}; they must lie on the CPU, for every call counts its "
                f"density from them and would wait for the device"
            )

    @classmethod
    def dense(cls, key_lengths: torch.Tensor | None = None) -> AttentionPlan:
        """Return the plan in which every head keeps everything."""
        return cls((HeadPattern("dense"),), torch.zeros(1, 1, dtype=torch.long), key_lengths)

    @property
    def is_dense(self) -> bool:
        """Whether no pattern of the palette skips anything."""
        return all(pattern.mask is None for pattern in self.patterns)

    @property
    def is_reordered(self) -> bool:
        return any(pattern.query_order is not None or pattern.key_order is not None for pattern in self.patterns)

    def arrange(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lay out ``(batch, num_heads, seq_len, head_dim)`` tensors in the plan's orders, each in one pass."""
        return self.arrange_query(query), *self.arrange_keys(key, value)

    def arrange_query(self, query: torch.Tensor) -> torch.Tensor:
        """Lay out queries alone."""
        if not self.is_reordered:
            return query
        return _permute(query, _orders([pattern.query_order for pattern in self.patterns], query), self.assignment)

    def arrange_keys(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay out keys and values alone."""
        if not self.is_reordered:
            return key, value
        orders = _orders([pattern.key_order for pattern in self.patterns], key)
        return _permute(key, orders, self.assignment), _permute(value, orders, self.assignment)

    def restore(self, output: torch.Tensor) -> torch.Tensor:
        """Bring ``(batch, num_heads, seq_len, head_dim)`` back from the plan's query order to the original one."""
        if not self.is_reordered:
            return output
        orders = _orders([pattern.query_position for pattern in self.patterns], output)
        return _permute(output, orders, self.assignment)

    def density(self, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept and the computed share of all query-key pairs, over batch and heads; scalar tensors.

        Padding keys are counted neither as kept nor as pairs. The scalars lie on the assignment's device.
        """
        shares = send(torch.tensor(self.shares(seq_len), dtype=torch.float64), self.assignment.device)
        rows = torch.arange(len(shares), device=self.assignment.device)[:, None]
        chosen = shares[rows, self.assignment]
        return chosen[..., 0].mean(), chosen[..., 1].mean()

    def shares(self, seq_len: int) -> list[list[tuple[float, float]]]:
        """Return the (kept, computed) share of each pattern, a list per batch item, or one where lengths are shared."""
        lengths = [None] if self.key_lengths is None else self.key_lengths.tolist()
        return [[_shares(pattern, seq_len, length) for pattern in self.patterns] for length in lengths]


@dataclass
class AttentionInputs:
    """The projections of one self-attention call before norm and RoPE, and what is needed to finish them.

    Args:
        query_projection: ``(batch, seq_len, num_heads * head_dim)``.
        key_projection: The same shape.
        value_projection: The same shape.
        num_heads: Heads on this device.
        finish_query: (projection rows, row indices or None for all) -> ``(batch, num_heads, rows, head_dim)``, normed
            and rotated.
        finish_key: The same for keys.
        operations: What methods compute with; plain torch unless a faster implementation is handed in.
        key_lengths: As a plan's.
        place_query: (all projection rows, int32 places ``(patterns, seq_len)``, the pattern of each head as a plan has
            it) -> all queries finished, every token of a head put where its pattern says; None where that takes more
            than one pass, and where there is no such thing.
    """

    query_projection: torch.Tensor
    key_projection: torch.Tensor
    value_projection: torch.Tensor
    num_heads: int
    finish_query: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    finish_key: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    operations: TorchOperations = field(default_factory=TorchOperations)
    key_lengths: torch.Tensor | None = None
    place_query: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None

    @property
    def seq_len(self) -> int:
        return self.query_projection.shape[1]

    @property
    def device(self) -> torch.device:
        return self.query_projection.device

    def query_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the queries at the given original positions, ``(batch, num_heads, rows, head_dim)``."""
        return self.finish_query(self.query_projection.index_select(1, rows), rows)

    def query(self) -> torch.Tensor:
        """Return all queries, ``(batch, num_heads, seq_len, head_dim)``; computed once."""
        return self._query

    def placed_query(self, places: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor | None:
        """Return all queries laid out anew, as ``place_query`` does; None where they are better laid out afterwards."""
        if self.place_query is None or "_query" in vars(self):
            return None
        return self.place_query(self.query_projection, places, assignment)

    def key(self) -> torch.Tensor:
        """Return all keys, ``(batch, num_heads, seq_len, head_dim)``; computed once."""
        return self._key

    def value(self) -> torch.Tensor:
        """Return all values, ``(batch, num_heads, seq_len, head_dim)``."""
        return self.value_projection.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    @cached_property
    def _query(self) -> torch.Tensor:
        return self.finish_query(self.query_projection, None)

    @cached_property
    def _key(self) -> torch.Tensor:
        return self.finish_key(self.key_projection, None)


def _shares(pattern: HeadPattern, seq_len: int, key_length: int | None) -> tuple[float, float]:
    if pattern.mask is None:
        return 1.0, 1.0
    if key_length is None:
        return pattern.mask.token_density, pattern.mask.tile_density
    pairs = seq_len * key_length
    return pattern.mask.kept_pairs(key_length) / pairs, pattern.mask.computed_pairs(key_length) / pairs


def _orders(orders: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
    """Stack the palette's orders, ``(patterns, seq_len)``, on the device of ``like``."""
    identity = torch.arange(like.shape[2], device=like.device)
    return torch.stack([identity if order is None else resident(order, like.device) for order in orders])


def _permute(x: torch.Tensor, orders: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    """Gather ``(batch, num_heads, seq_len, head_dim)`` along the sequence, each head by its pattern's order."""
    batch, num_heads, seq_len, head_dim = x.shape
    order = orders[resident(assignment, x.device)].expand(batch, num_heads, seq_len)
    batch_index = torch.arange(batch, device=x.device)[:, None, None]
    head_index = torch.arange(num_heads, device=x.device)[None, :, None]
    if x.transpose(1, 2).is_contiguous():
        rows = (batch_index * seq_len + order) * num_heads + head_index
        flat = x.transpose(1, 2).reshape(-1, head_dim)
    else:
        rows = (batch_index * num_heads + head_index) * seq_len + order
        flat = x.reshape(-1, head_dim)
    return flat.index_select(0, rows.flatten()).view(batch, num_heads, seq_len, head_dim)
