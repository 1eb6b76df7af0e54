"""What an attachment computes with on a GPU: profiling and reordering by our kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from svg.block_mask import FULL, PARTIAL
from svg.operations import TorchOperations
from svg.order import inverse
from svg.pattern_integers import has_integers, pattern_integers
from svg.pattern_orders import stacked_orders
from svg.placement import resident, send
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern
from svg_kernels import profiling
from svg_kernels.reorder import reorder

MOST_HEAD_DIM = 128


@dataclass(frozen=True)
class KernelOperations(TorchOperations):
    """Plain torch, save what a kernel of ours computes faster."""

    def arrange(
        self, plan: AttentionPlan, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``AttentionPlan.arrange``, number for number; the outputs are contiguous."""
        if not plan.is_reordered:
            return query, key, value
        queries, keys, _ = stacked_orders(plan.patterns, query.shape[2], query.device)
        assignment = resident(plan.assignment, query.device)
        return (
            reorder(_with_whole_rows(query), queries, assignment),
            reorder(_with_whole_rows(key), keys, assignment),
            reorder(_with_whole_rows(value), keys, assignment),
        )

    def arrange_inputs(
        self, plan: AttentionPlan, inputs: AttentionInputs
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``TorchOperations.arrange_inputs``; where one kernel finishes queries, it also puts them in order."""
        if not plan.is_reordered:
            return super().arrange_inputs(plan, inputs)
        _, keys, _ = stacked_orders(plan.patterns, inputs.seq_len, inputs.device)
        assignment = resident(plan.assignment, inputs.device)
        return (
            self.arrange_query(plan, inputs),
            reorder(_with_whole_rows(inputs.key()), keys, assignment),
            reorder(_with_whole_rows(inputs.value()), keys, assignment),
        )

    def arrange_query(self, plan: AttentionPlan, inputs: AttentionInputs) -> torch.Tensor:
        """As ``TorchOperations.arrange_query``; where one kernel finishes queries, it also puts them in order."""
        if not plan.is_reordered:
            return super().arrange_query(plan, inputs)
        queries, _, places = stacked_orders(plan.patterns, inputs.seq_len, inputs.device)
        assignment = resident(plan.assignment, inputs.device)
        query = inputs.placed_query(places, assignment)
        return reorder(_with_whole_rows(inputs.query()), queries, assignment) if query is None else query

    def restore(self, plan: AttentionPlan, output: torch.Tensor) -> torch.Tensor:
        """As ``AttentionPlan.restore``, number for number; in memory tokens stand before heads, as models want them."""
        if not plan.is_reordered:
            return output
        _, _, undo = stacked_orders(plan.patterns, output.shape[2], output.device)
        assignment = resident(plan.assignment, output.device)
        return reorder(_with_whole_rows(output), undo, assignment, puts_tokens_first=True)

    def profile(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        patterns: Sequence[HeadPattern],
        rows: torch.Tensor,
        dtype: torch.dtype | None = torch.float32,
        key_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``TorchOperations.profile``: products of probabilities are in the inputs' dtype, sums in float32.

        A ``dtype`` other than float32, float64 inputs, a head_dim above 128 and masks outside of the closed set are
        left to plain torch.
        """
        is_able = dtype == torch.float32 and query.dtype != torch.float64 and query.shape[-1] <= MOST_HEAD_DIM
        if not (is_able and all(has_integers(pattern.mask) for pattern in patterns)):
            return super().profile(query, key, value, patterns, rows, dtype, key_lengths)
        query, key, value = (_with_whole_rows(x) for x in (query, key, value))
        lengths = None if key_lengths is None else send(key_lengths, query.device)
        masks = _palette(tuple(patterns), key.shape[2], query.device).on_rows(rows)
        return profiling.pattern_errors(query, key, value, masks, lengths)


def _with_whole_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _Palette(NamedTuple):
    """What patterns keep, on a device: ``profiling.RowMasks`` before the rows are known.

    Args:
        states: int8 ``(patterns, query_tiles, key_tiles)``, smaller maps padded.
        query_tile: int64 ``(patterns, seq_len)``, the tile of each query.
        query_place: int32 ``(patterns, seq_len)``, its place in the pattern's order.
        key_tile: int32, the same for keys.
        key_place: int32, the same for keys.
        integers: int32 ``(patterns, 14)``.
        has_partial: Whether any tile is partial.
    """

    states: torch.Tensor
    query_tile: torch.Tensor
    query_place: torch.Tensor
    key_tile: torch.Tensor
    key_place: torch.Tensor
    integers: torch.Tensor
    has_partial: bool

    def on_rows(self, rows: torch.Tensor) -> profiling.RowMasks:
        pattern = torch.arange(self.states.shape[0], device=rows.device)[:, None]
        return profiling.RowMasks(
            self.states[pattern, self.query_tile[:, rows]],
            self.key_tile,
            self.query_place[:, rows].contiguous(),
            self.key_place,
            self.integers,
            self.has_partial,
        )


@lru_cache(maxsize=4)
def _palette(patterns: tuple[HeadPattern, ...], seq_len: int, device: torch.device) -> _Palette:
    states, tiles, places = [], [], []
    for pattern in patterns:
        mask = pattern.mask
        states.append(torch.full((1, 1), FULL, dtype=torch.int8) if mask is None else mask.tile_map)
        for order, offsets in (
            (pattern.query_order, None if mask is None else mask.query_offsets),
            (pattern.key_order, None if mask is None else mask.key_offsets),
        ):
            place = torch.arange(seq_len) if order is None else inverse(order.cpu())
            places.append(place)
            tile_of = (
                torch.zeros(seq_len, dtype=torch.long) if offsets is None else torch.repeat_interleave(offsets.diff())
            )
            tiles.append(tile_of[place])
    shape = [max(state.shape[axis] for state in states) for axis in (0, 1)]
    padded = torch.zeros(len(states), *shape, dtype=torch.int8)
    for index, state in enumerate(states):
        padded[index, : state.shape[0], : state.shape[1]] = state
    integers = [pattern_integers(pattern.mask) for pattern in patterns]

    def number(x: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(x).to(device, torch.int32)

    return _Palette(
        padded.to(device),
        torch.stack(tiles[::2]).to(device),
        number(places[::2]),
        number(tiles[1::2]),
        number(places[1::2]),
        torch.tensor(integers, dtype=torch.int32).to(device),
        bool((padded == PARTIAL).any()),
    )
