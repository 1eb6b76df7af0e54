"""A block mask read row of tiles by row of tiles: which keys a block of queries meets, as ranges or as an index."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.block_mask import PARTIAL, SKIPPED, BlockMask


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

    Rows of tiles with the same keys and nothing to mask become one; a row of more than ``most_scores`` scores is cut.

    Args:
        mask: One head's mask.
        key_length: Keys at or past it are left out.
        most_scores: Scores (queries x keys) per row, at least 1; a row of one query may have more.
    """
    ranges, index = _key_ranges(mask, key_length)
    has_partial = (mask.tile_map == PARTIAL).any(1).tolist()
    offsets = mask.query_offsets.tolist()
    rows: list[TileRow] = []
    start = 0
    for tile, stop in enumerate(offsets[1:]):
        is_last = tile + 1 == len(ranges)
        alone = has_partial[tile] or is_last or has_partial[tile + 1]
        if not alone and ranges[tile] == ranges[tile + 1]:
            continue
        most_queries = max(1, most_scores // max(1, index[tile].numel()))
        for cut in range(start, stop, most_queries):
            row = TileRow(cut, min(cut + most_queries, stop), ranges[tile], index[tile])
            rows.append(_mask_partial_tiles(row, mask, tile) if has_partial[tile] else row)
        start = stop
    return rows


def _key_ranges(mask: BlockMask, key_length: int) -> tuple[list[tuple[tuple[int, int], ...]], tuple[torch.Tensor, ...]]:
    """Return the computed key ranges of each row of tiles, and the positions they hold."""
    computed = (mask.tile_map != SKIPPED).repeat_interleave(mask.key_offsets.diff(), dim=1)[:, :key_length]
    edge = torch.nn.functional.pad(computed.to(torch.int8), (1, 1)).diff(dim=1)
    row, start = (edge == 1).nonzero(as_tuple=True)
    stop = (edge == -1).nonzero()[:, 1]
    ranges: list[list[tuple[int, int]]] = [[] for _ in range(computed.shape[0])]
    for tile, first, last in zip(row.tolist(), start.tolist(), stop.tolist(), strict=True):
        ranges[tile].append((first, last))
    index = computed.nonzero()[:, 1].split(computed.sum(1).tolist())
    return [tuple(found) for found in ranges], index


def _mask_partial_tiles(row: TileRow, mask: BlockMask, tile: int) -> TileRow:
    """Return ``row`` with what the partial tiles of its row of tiles drop."""
    is_partial = (mask.tile_map[tile] == PARTIAL).repeat_interleave(mask.key_offsets.diff())[row.index]
    columns = is_partial.nonzero()[:, 0]
    if not columns.numel():
        return row
    queries = torch.arange(row.query_start, row.query_stop)
    assert mask.pattern is not None
    dropped = ~mask.pattern.keep(queries[:, None], row.index[columns][None, :])
    is_empty = dropped.all(1) if columns.numel() == row.num_keys else torch.zeros_like(queries, dtype=torch.bool)
    drops = []
    # Runs of neighbouring columns, each one masked_fill.
    run_ends = ((columns.diff() != 1).nonzero()[:, 0] + 1).tolist()
    for first, last in zip([0, *run_ends], [*run_ends, columns.numel()], strict=True):
        piece = dropped[:, first:last]
        if piece.any():
            drops.append((int(columns[first]), int(columns[last - 1]) + 1, piece.contiguous()))
    empty = is_empty.nonzero()[:, 0] if is_empty.any() else None
    return TileRow(row.query_start, row.query_stop, row.ranges, row.index, tuple(drops), empty)
