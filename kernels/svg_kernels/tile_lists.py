"""Which tiles a block-sparse kernel computes: full and partial ones, row by row, for every pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

SKIPPED, PARTIAL, FULL = 0, 1, 2

# A row with so many times the tiles of the median row is started first, where no more than this share of the rows are
# such rows: what is started first stands beside rows of other heads, which read other keys.
HEAVY_ROW = 1.25
MOST_HEAVY = 1 / 16


class PatternIntegers(NamedTuple):
    """What partial tiles keep: a band, a sink, text and padding; positions count in the order of the plan.

    A query q and a key k are kept if the band holds them (both in its range, ``|query_scale * ((q - query_start) //
    unit) - key_scale * ((k - key_start) // unit)| <= half_width``), if k stands in ``[sink_start, sink_stop)``, if
    ``k - key_start`` is a multiple of ``sink_stride`` (0: none) inside the band's range, or if either stands in
    ``[text_start, text_stop)``. Positions from ``valid_stop`` on are padding: they see each other and nothing else.
    """

    half_width: int = -1
    query_start: int = 0
    query_stop: int = 0
    key_start: int = 0
    key_stop: int = 0
    query_scale: int = 1
    key_scale: int = 1
    unit: int = 1
    sink_start: int = 0
    sink_stop: int = 0
    sink_stride: int = 0
    text_start: int = 0
    text_stop: int = 0
    valid_stop: int = 2**30

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether each pair is kept; integer positions broadcast, the result is bool."""
        from_query, from_key = query - self.query_start, key - self.key_start
        in_queries, in_keys = (from_query >= 0) & (query < self.query_stop), (from_key >= 0) & (key < self.key_stop)
        distance = self.query_scale * (from_query // self.unit) - self.key_scale * (from_key // self.unit)
        kept = in_queries & in_keys & (distance.abs() <= self.half_width)
        kept = kept | ((key >= self.sink_start) & (key < self.sink_stop))
        if self.sink_stride:
            kept = kept | (in_keys & (from_key % self.sink_stride == 0))
        for position in (query, key):
            kept = kept | ((position >= self.text_start) & (position < self.text_stop))
        query_is_valid, key_is_valid = query < self.valid_stop, key < self.valid_stop
        return (kept & query_is_valid & key_is_valid) | (~query_is_valid & ~key_is_valid)


@dataclass(frozen=True, eq=False)
class Lookup:
    """What partial tiles keep where the plan's own tiles are smaller than these, or unequal: looked up per token.

    Args:
        query_tile: int32 ``(patterns, seq_len)``, the plan's tile that holds each query.
        key_tile: The same for keys.
        states: int8, the plan's ``(query_tiles, key_tiles)`` states of every pattern, one after another.
        places: int32 ``(patterns, 2)``: where each pattern's states begin, and their key tiles.
    """

    query_tile: torch.Tensor
    key_tile: torch.Tensor
    states: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True, eq=False)
class TileLists:
    """The patterns of a plan as a kernel reads them; heads that share a pattern share its lists.

    Args:
        query_size: Queries per tile; the last tile of a pattern may be shorter.
        key_size: Keys per tile.
        starts: int32 ``(patterns, query_tiles)``, where each row's list begins in ``tiles``.
        full_counts: The same shape: so many full tiles come first, ascending.
        partial_counts: The same shape: so many partial tiles follow, ascending.
        tiles: int32, the key tiles of all lists, and one number that belongs to none.
        row_order: int32 ``(patterns, query_tiles)``: heavy rows first, then the others as they stand.
        num_heavy: How many of ``row_order`` to start before the rest.
        integers: int32 ``(patterns, 14)``, each a ``PatternIntegers``.
        has_partial: Whether any tile is partial.
        lookup: What partial tiles keep beside the integers; None where the integers say it all.
    """

    query_size: int
    key_size: int
    starts: torch.Tensor
    full_counts: torch.Tensor
    partial_counts: torch.Tensor
    tiles: torch.Tensor
    row_order: torch.Tensor
    num_heavy: int
    integers: torch.Tensor
    has_partial: bool
    lookup: Lookup | None = None

    @classmethod
    def from_states(
        cls,
        states: torch.Tensor,
        integers: list[PatternIntegers],
        query_size: int,
        key_size: int,
        lookup: Lookup | None = None,
        device: torch.device | str = "cpu",
    ) -> TileLists:
        """Return the lists of ``states``, int8 ``(patterns, query_tiles, key_tiles)`` on the CPU."""
        pattern, row, tile = (states != SKIPPED).nonzero(as_tuple=True)
        row_of_all = pattern * states.shape[1] + row
        full_first = (2 * row_of_all + (states[pattern, row, tile] == PARTIAL)).argsort(stable=True)
        full_counts, partial_counts = (states == FULL).sum(2), (states == PARTIAL).sum(2)
        counts = full_counts + partial_counts
        starts = counts.flatten().cumsum(0) - counts.flatten()
        is_heavy = counts > HEAVY_ROW * counts.double().quantile(0.5, dim=1, keepdim=True)
        is_heavy &= is_heavy.sum(1, keepdim=True) <= max(MOST_HEAVY * is_heavy.shape[1], 1)
        num_heavy = int(is_heavy.sum(1).max())
        by_weight = torch.where(is_heavy, counts, -1)

        def number(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, torch.int32)

        return cls(
            query_size,
            key_size,
            number(starts.view_as(counts)),
            number(full_counts),
            number(partial_counts),
            number(torch.cat([tile[full_first], torch.zeros(1, dtype=torch.long)])),
            number(by_weight.argsort(dim=1, descending=True, stable=True)),
            num_heavy,
            number(torch.tensor(integers)),
            bool(partial_counts.any()),
            lookup,
        )

    def num_programs(self, block_queries: int) -> int:
        """Return how many programs a head takes, of so many queries each."""
        return self.starts.shape[1] * (self.query_size // block_queries)

    def arguments(
        self,
        assignment: torch.Tensor,
        lengths: torch.Tensor | None,
        sizes: tuple[int, int, int],
        block: tuple[int, int],
    ) -> dict[str, Any]:
        """Return what a kernel is given to find the tiles that each of its programs computes.

        Args:
            assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head.
            lengths: int64 ``(batch,)``: keys at or past it get no attention; None where all count.
            sizes: Batch, heads and tokens.
            block: Queries and keys that a program takes at a time; they divide a tile's.
        """
        (batch, num_heads, seq_len), lookup = sizes, self.lookup
        return {
            "starts": self.starts,
            "full_counts": self.full_counts,
            "partial_counts": self.partial_counts,
            "tiles": self.tiles,
            "row_order": self.row_order,
            "integers": self.integers,
            "assignment": assignment,
            "lengths": lengths,
            "lookup_query_tile": None if lookup is None else lookup.query_tile,
            "lookup_key_tile": None if lookup is None else lookup.key_tile,
            "lookup_states": None if lookup is None else lookup.states,
            "lookup_places": None if lookup is None else lookup.places,
            "stride_assignment_item": 0 if assignment.shape[0] == 1 else assignment.stride(0),
            "stride_assignment_head": 0 if assignment.shape[1] == 1 else assignment.stride(1),
            "num_items": batch,
            "num_heads": num_heads,
            "num_rows": self.starts.shape[1],
            "num_heavy": self.num_heavy,
            "seq_len": seq_len,
            "BLOCK_QUERIES": block[0],
            "BLOCK_KEYS": block[1],
            "ROW_SPLIT": self.query_size // block[0],
            "KEY_SPLIT": self.key_size // block[1],
            "HAS_PARTIAL": self.has_partial,
            "HAS_RAGGED_KEYS": lengths is not None or seq_len % self.key_size > 0,
        }

    def keep(self, pattern: int, seq_len: int, rows: torch.Tensor) -> torch.Tensor:
        """Return what a pattern keeps at some queries, bool ``(rows, seq_len)`` on the rows' device: for judges."""
        query, key = rows[:, None], torch.arange(seq_len, device=rows.device)
        tile = query // self.query_size
        state = torch.full((len(rows), -(-seq_len // self.key_size)), SKIPPED, device=rows.device)
        for row in tile.unique().tolist():
            start = int(self.starts[pattern, row])
            middle = start + int(self.full_counts[pattern, row])
            stop = middle + int(self.partial_counts[pattern, row])
            for kind, listed in ((FULL, self.tiles[start:middle]), (PARTIAL, self.tiles[middle:stop])):
                is_listed = torch.zeros(state.shape[1], dtype=torch.bool, device=rows.device)
                is_listed[listed.long()] = True
                state[(tile == row) & is_listed] = kind
        state = state[:, key // self.key_size]
        kept = PatternIntegers(*self.integers[pattern].tolist()).keep(query, key)
        if self.lookup is not None:
            first, width = self.lookup.places[pattern].tolist()
            query_tile, key_tile = self.lookup.query_tile[pattern, rows].long(), self.lookup.key_tile[pattern].long()
            own = self.lookup.states[first + query_tile[:, None] * width + key_tile]
            kept = (own == FULL) | ((own == PARTIAL) & kept)
        return (state == FULL) | ((state == PARTIAL) & kept)
