"""A block mask read row of tiles by row of tiles: which keys a block of queries meets, as ranges or as an index."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.block_mask import FULL, SKIPPED, BlockMask

# Rows of fewer queries make slow products: neighbours join, as long as few pairs are then computed only to be masked.
ENOUGH_QUERIES = 64
MOST_EXTRA_PAIRS = 1 / 16


@dataclass(frozen=True, eq=False)
class TileRow:
    """A block of neighbouring queries that compute the same keys.

    Args:
        query_start: First query of the block.
        query_stop: Position after the last.
        ranges: Ascending, disjoint key ranges (start, stop); neighbouring tiles are one range. Empty: no keys at all.
        index: LongTensor ``(keys,)``, the positions that the ranges hold.
        drops: Pairs to mask after all: (column start, column stop, bool ``(queries, columns)``), columns counted over
            the ranges laid end to end.
        empty_queries: LongTensor of the queries, counted from ``query_start``, that keep no key; None where all do.
    """

    query_start: int
    query_stop: int
    ranges: tuple[tuple[int, int], ...]
    index: torch.Tensor
    drops: tuple[tuple[int, int, torch.Tensor], ...] = ()
    empty_queries: torch.Tensor | None = None

    @property
    def num_queries(self) -> int:
        return self.query_stop - self.query_start

    @property
    def num_keys(self) -> int:
        return self.index.numel()

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.ranges)


def tile_rows(mask: BlockMask, key_length: int, most_scores: int) -> list[TileRow]:
    """Return the rows of a mask in order, every query in one of them.

    Neighbouring rows of tiles become one where their keys are the same, or nearly so and their queries few; a row of
    more than ``most_scores`` scores is cut.

    Args:
        mask: One head's mask.
        key_length: Keys at or past it are left out.
        most_scores: Scores (queries x keys) per row, at least 1; a row of one query may have more.
    """
    tile_of_key = torch.repeat_interleave(mask.key_offsets.diff())[:key_length]
    rows: list[TileRow] = []
    for first, last in _groups(mask, key_length):
        states = mask.tile_map[first:last]
        keys = (states != SKIPPED).any(0)[tile_of_key].nonzero()[:, 0]
        is_full = (states == FULL).all(0)[tile_of_key[keys]]
        start, stop = int(mask.query_offsets[first]), int(mask.query_offsets[last])
        most_queries = max(1, most_scores // max(1, keys.numel()))
        rows.extend(
            _row(mask, cut, min(cut + most_queries, stop), keys, is_full) for cut in range(start, stop, most_queries)
        )
    return rows


def _groups(mask: BlockMask, key_length: int) -> list[tuple[int, int]]:
    """Return ranges of rows of tiles that are computed together."""
    computed = mask.tile_map != SKIPPED
    keys_of = mask.key_offsets.clamp(max=key_length).diff().double()
    queries_of = mask.query_offsets.diff().tolist()
    own_keys = (computed.double() @ keys_of).tolist()
    groups = []
    first, union, queries, pairs = 0, computed[0], queries_of[0], queries_of[0] * own_keys[0]
    for tile in range(1, len(queries_of)):
        joined, joined_queries = union | computed[tile], queries + queries_of[tile]
        joined_pairs = pairs + queries_of[tile] * own_keys[tile]
        allowed = joined_pairs * (1 if joined_queries > ENOUGH_QUERIES else 1 + MOST_EXTRA_PAIRS)
        if joined_queries * float(joined.double() @ keys_of) <= allowed:
            union, queries, pairs = joined, joined_queries, joined_pairs
            continue
        groups.append((first, tile))
        first, union, queries, pairs = tile, computed[tile], queries_of[tile], queries_of[tile] * own_keys[tile]
    return [*groups, (first, len(queries_of))]


def _row(mask: BlockMask, start: int, stop: int, keys: torch.Tensor, is_full: torch.Tensor) -> TileRow:
    """Return the row of queries ``start`` to ``stop - 1``; columns of ``keys`` that they all drop are left out."""
    if bool(is_full.all()):
        return TileRow(start, stop, _runs(keys), keys)
    some = (~is_full).nonzero()[:, 0]
    keep = mask.keep(torch.arange(start, stop)[:, None], keys[some][None, :])
    is_met = keep.any(0)
    is_kept = is_full.clone()
    is_kept[some] = is_met
    # Columns counted over the keys that are left.
    column = (is_kept.cumsum(0) - 1)[some]
    is_cut = is_met & ~keep.all(0)
    dropped, columns = ~keep[:, is_cut], column[is_cut]
    keys = keys[is_kept]
    drops = []
    place = 0
    for low, high in _runs(columns):
        drops.append((low, high, dropped[:, place : place + high - low].contiguous()))
        place += high - low
    empty = None
    if columns.numel() == keys.numel():
        is_empty = dropped.all(1)
        empty = is_empty.nonzero()[:, 0] if bool(is_empty.any()) else None
    return TileRow(start, stop, _runs(keys), keys, tuple(drops), empty)


def _runs(ascending: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """Return the runs of neighbouring integers as (start, stop)."""
    if not ascending.numel():
        return ()
    gap = (ascending.diff() != 1).nonzero()[:, 0]
    starts = [int(ascending[0]), *ascending[gap + 1].tolist()]
    stops = [*(ascending[gap] + 1).tolist(), int(ascending[-1]) + 1]
    return tuple(zip(starts, stops, strict=True))
