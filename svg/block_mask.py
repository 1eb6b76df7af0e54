"""The tiles of one head's attention map: skipped, partial or full, built in closed form, never as an N x N tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from svg.pattern import TokenPattern, density_too_low
from svg.placement import resident

SKIPPED, PARTIAL, FULL = 0, 1, 2

# Consecutive multiples of the golden ratio, mod 1, are spread evenly: ties between tiles fall over all rows alike.
GOLDEN_RATIO = 0.6180339887498949

# Into which ranks are parted before those at the edge of a budget are sorted; more cost more to count.
NUM_BINS = 4096


def tile_offsets(length: int, block_size: int) -> torch.Tensor:
    """Return where tiles of ``block_size`` tokens start, and the end; the last tile may be shorter."""
    if block_size < 1:
        raise ValueError(f"method.block_size is {block_size}; it must be at least 1")
    return torch.cat([torch.arange(0, length, block_size), torch.tensor([length])])


class Pairs(Protocol):
    """What says of each pair whether it is kept: a ``TokenPattern``, or another thing that can."""

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor: ...

    def count(self, query: torch.Tensor | None = None, key_length: int | None = None) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class BlockMask:
    """What one head computes, in the order of its plan.

    Args:
        query_offsets: LongTensor ``(query_tiles + 1,)`` on the CPU: tile i holds queries ``offsets[i]`` to
            ``offsets[i + 1] - 1``. Tiles may be of unequal size.
        key_offsets: The same for keys.
        tile_map: int8 ``(query_tiles, key_tiles)``: ``SKIPPED``, ``PARTIAL`` or ``FULL``.
        pattern: What partial tiles keep, token by token; required where there are any.
    """

    query_offsets: torch.Tensor
    key_offsets: torch.Tensor
    tile_map: torch.Tensor
    pattern: Pairs | None = None

    def __post_init__(self) -> None:
        shape = (self.query_offsets.numel() - 1, self.key_offsets.numel() - 1)
        if tuple(self.tile_map.shape) != shape:
            raise ValueError(f"tile_map has shape {tuple(self.tile_map.shape)}, the offsets say {shape}")
        if self.pattern is None and self.has_partial:
            raise ValueError("a block mask with partial tiles needs the pattern that they keep")

    @classmethod
    def from_pattern(cls, pattern: TokenPattern, query_block_size: int, key_block_size: int) -> BlockMask:
        """Return the mask that keeps exactly ``pattern``: tiles inside it full, tiles on its edge partial."""
        query_offsets = tile_offsets(pattern.query_len, query_block_size)
        key_offsets = tile_offsets(pattern.key_len, key_block_size)
        return cls(query_offsets, key_offsets, _classify(pattern, query_offsets, key_offsets), pattern)

    @classmethod
    def from_tiles(cls, keep: torch.Tensor, query_offsets: torch.Tensor, key_offsets: torch.Tensor) -> BlockMask:
        """Return the mask of whole tiles; ``keep`` is bool ``(query_tiles, key_tiles)``."""
        return cls(query_offsets.cpu(), key_offsets.cpu(), keep.to("cpu", torch.int8) * FULL)

    @classmethod
    def from_tile_budget(
        cls, pattern: TokenPattern, density: float, query_block_size: int, key_block_size: int
    ) -> BlockMask:
        """Return whole tiles nearest to the band's centre line, as many as fit in ``density``.

        Sink, text and the diagonal are kept first. Tiles of equal distance from the centre line are taken evenly over
        the rows, so that the density executed is the density asked for to within one tile.

        Args:
            pattern: Geometry of the band; its width is ignored.
            density: Fraction of all pairs kept, in (0, 1].
            query_block_size: Queries per tile.
            key_block_size: Keys per tile.

        Raises:
            ValueError: If text, sink and diagonal alone keep more than ``density``.
        """
        query_offsets = tile_offsets(pattern.query_len, query_block_size)
        key_offsets = tile_offsets(pattern.key_len, key_block_size)
        kept, distance = _tiles_by_distance(pattern, query_offsets, key_offsets)
        # Whole numbers below 2^53: float64 adds them exactly, and counts them fastest.
        area = query_offsets.diff().double()[:, None] * key_offsets.diff()[None, :]
        budget = density * pattern.query_len * pattern.key_len
        floor_area = int(area[kept].sum())
        if floor_area > budget:
            raise density_too_low(density, floor_area / (pattern.query_len * pattern.key_len))
        rows = torch.arange(kept.shape[0], dtype=torch.float64)[:, None]
        tie = (rows * GOLDEN_RATIO) % 1
        nearest = _smallest_that_fit(distance + 0.25 * tie, ~kept & distance.isfinite(), area, budget - floor_area)
        return cls.from_tiles(kept | nearest, query_offsets, key_offsets)

    @property
    def query_len(self) -> int:
        return int(self.query_offsets[-1])

    @property
    def key_len(self) -> int:
        return int(self.key_offsets[-1])

    @cached_property
    def has_partial(self) -> bool:
        """Whether any tile is partial."""
        return bool((self.tile_map == PARTIAL).any())

    @cached_property
    def full(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts ``(query_tiles,)`` and ascending indices ``(query_tiles, most)`` of the full tiles; int32."""
        return _tile_list(self.tile_map == FULL)

    @cached_property
    def partial(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the partial tiles."""
        return _tile_list(self.tile_map == PARTIAL)

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether pairs are computed and not masked; positions in plan order broadcast, the result is bool."""
        query_offsets, key_offsets = (resident(x, query.device) for x in (self.query_offsets, self.key_offsets))
        query_tile = torch.bucketize(query, query_offsets, right=True) - 1
        key_tile = torch.bucketize(key, key_offsets, right=True) - 1
        state = _at(resident(self.tile_map, query.device), query_tile, key_tile)
        if self.pattern is None:
            return state == FULL
        return (state == FULL) | ((state == PARTIAL) & self.pattern.keep(query, key))

    def dense(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the whole mask, bool ``(query_len, key_len)``. For judges and tests: it is N x N."""
        query = torch.arange(self.query_len, device=device)
        return self.keep(query[:, None], torch.arange(self.key_len, device=device)[None, :])

    def kept_pairs(self, key_length: int | None = None) -> int:
        """Return how many pairs are kept, token by token, among keys below ``key_length``."""
        if self.pattern is not None:
            return int(self.pattern.count(key_length=key_length).sum())
        return int(((self.tile_map == FULL) * self._areas(key_length)).sum())

    def computed_pairs(self, key_length: int | None = None) -> int:
        """Return how many pairs lie in tiles that are computed, partial tiles counted whole."""
        return int(((self.tile_map != SKIPPED) * self._areas(key_length)).sum())

    @cached_property
    def token_density(self) -> float:
        """Share of all pairs that is kept."""
        return self.kept_pairs() / (self.query_len * self.key_len)

    @cached_property
    def tile_density(self) -> float:
        """Share of all pairs that lies in computed tiles."""
        return self.computed_pairs() / (self.query_len * self.key_len)

    @cached_property
    def block_density(self) -> float:
        """Share of the tiles that is computed, a ragged one at the end counted like any other."""
        return (self.tile_map != SKIPPED).double().mean().item()

    def _areas(self, key_length: int | None) -> torch.Tensor:
        keys = self.key_offsets if key_length is None else self.key_offsets.clamp(max=key_length)
        return self.query_offsets.diff()[:, None] * keys.diff()[None, :]


def _at(tile_map: torch.Tensor, query_tile: torch.Tensor, key_tile: torch.Tensor) -> torch.Tensor:
    """Return ``tile_map[query_tile, key_tile]``; a column of queries against a row of keys is two plain selections."""
    if query_tile.shape[1:] == (1,) and key_tile.dim() == 2 and key_tile.shape[0] == 1:
        return tile_map.index_select(0, query_tile[:, 0]).index_select(1, key_tile[0])
    return tile_map[query_tile, key_tile]


def _tile_list(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    count = tiles.sum(1)
    ascending = tiles.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return count.to(torch.int32), ascending[:, : max(int(count.max()), 1)].to(torch.int32).contiguous()


def _smallest_that_fit(rank: torch.Tensor, candidates: torch.Tensor, area: torch.Tensor, budget: float) -> torch.Tensor:
    """Return the candidates taken in ascending order of rank, ties in order of place, until the next would not fit.

    Only the tiles at the edge of the budget are sorted: there are nearly a million at the size of a 720p video.

    Args:
        rank: float64 ``(query_tiles, key_tiles)``, at least 0; finite where there are candidates.
        candidates: bool, the same shape.
        area: float64, the same shape.
        budget: What the areas may sum up to.
    """
    rank = rank.masked_fill(~candidates, 0)
    bins = (rank * (NUM_BINS / (float(rank.max()) + 1))).long()
    filled = torch.bincount(bins.flatten(), (area * candidates).flatten(), minlength=NUM_BINS).cumsum(0)
    edge_bin = int((filled <= budget).sum())
    taken = candidates & (bins < edge_bin)
    edge = (candidates & (bins == edge_bin)).flatten().nonzero()[:, 0]
    edge = edge[rank.flatten()[edge].argsort(stable=True)]
    left = budget - (float(filled[edge_bin - 1]) if edge_bin else 0.0)
    taken.view(-1)[edge[area.flatten()[edge].cumsum(0) <= left]] = True
    return taken


def _overlap(start: torch.Tensor, stop: torch.Tensor, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether each range [start, stop) meets [low, high), and whether it lies inside it."""
    return (start < high) & (stop > low) & (low < high), (start >= low) & (stop <= high)


def _classify(pattern: TokenPattern, query_offsets: torch.Tensor, key_offsets: torch.Tensor) -> torch.Tensor:
    query_from, query_to = query_offsets[:-1, None], query_offsets[1:, None]
    key_from, key_to = key_offsets[None, :-1], key_offsets[None, 1:]

    touches_query, inside_query = _overlap(query_from, query_to, pattern.query_start, pattern.query_stop)
    touches_key, inside_key = _overlap(key_from, key_to, pattern.key_start, pattern.key_stop)
    low, high = _band_difference(pattern, query_from, query_to, key_from, key_to)
    some = touches_query & touches_key & (low <= pattern.half_width) & (high >= -pattern.half_width)
    some = some & (pattern.half_width >= 0)
    every = inside_query & inside_key & (low >= -pattern.half_width) & (high <= pattern.half_width)

    for touches, inside in (
        _overlap(key_from, key_to, pattern.sink_start, pattern.sink_stop),
        _overlap(key_from, key_to, pattern.text_start, pattern.text_stop),
        _overlap(query_from, query_to, pattern.text_start, pattern.text_stop),
    ):
        some, every = some | touches, every | inside & touches
    if pattern.sink_stride:
        before = key_from.clamp(min=pattern.key_start) - pattern.key_start
        first = (before + pattern.sink_stride - 1) // pattern.sink_stride
        last = (key_to.clamp(max=pattern.key_stop) - pattern.key_start - 1) // pattern.sink_stride
        some = some | (touches_key & (first <= last))
    if pattern.valid_stop is not None:
        query_real, key_real = query_to <= pattern.valid_stop, key_to <= pattern.valid_stop
        query_pad, key_pad = query_from >= pattern.valid_stop, key_from >= pattern.valid_stop
        mixed = ~(query_real | query_pad) | ~(key_real | key_pad)
        some = (some & ~query_pad & ~key_pad) | (~query_real & ~key_real)
        every = (every & query_real & key_real) | (query_pad & key_pad)
        every = every & ~mixed
    return some.to(torch.int8) * PARTIAL + (some & every).to(torch.int8) * (FULL - PARTIAL)


def _band_difference(
    pattern: TokenPattern,
    query_from: torch.Tensor,
    query_to: torch.Tensor,
    key_from: torch.Tensor,
    key_to: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and greatest scaled difference over each tile, clipped to the band's range."""
    query_low, query_high = _scaled_queries(pattern, query_from, query_to)
    key_low, key_high = _scaled_keys(pattern, key_from, key_to)
    return query_low - key_high, query_high - key_low


def _scaled_queries(
    pattern: TokenPattern, start: torch.Tensor, stop: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled positions of the first and last query of each tile, clipped to the band's range."""
    last = max(pattern.query_stop - 1, pattern.query_start)
    first, final = (position.clamp(pattern.query_start, last) - pattern.query_start for position in (start, stop - 1))
    return pattern.query_scale * (first // pattern.unit), pattern.query_scale * (final // pattern.unit)


def _scaled_keys(pattern: TokenPattern, start: torch.Tensor, stop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for keys."""
    last = max(pattern.key_stop - 1, pattern.key_start)
    first, final = (position.clamp(pattern.key_start, last) - pattern.key_start for position in (start, stop - 1))
    return pattern.key_scale * (first // pattern.unit), pattern.key_scale * (final // pattern.unit)


def _tiles_by_distance(
    pattern: TokenPattern, query_offsets: torch.Tensor, key_offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tiles kept whatever the width (sink, text, diagonal), and each tile's distance from the centre line.

    Distances are in the pattern's scaled units and infinite where a tile lies outside the band's range.
    """
    query_from, query_to = query_offsets[:-1, None], query_offsets[1:, None]
    key_from, key_to = key_offsets[None, :-1], key_offsets[None, 1:]
    in_queries, _ = _overlap(query_from, query_to, pattern.query_start, pattern.query_stop)
    in_keys, _ = _overlap(key_from, key_to, pattern.key_start, pattern.key_stop)

    # From a row of numbers and a column, so that the whole map is passed over as rarely as can be.
    query_low, query_high = _scaled_queries(pattern, query_from, query_to)
    key_low, key_high = _scaled_keys(pattern, key_from, key_to)
    outside = ~(in_queries & in_keys)
    distance = ((query_low + query_high).double() / 2 - (key_low + key_high).double() / 2).abs_()
    distance.masked_fill_(outside, torch.inf)

    kept = (distance == distance.amin(1, keepdim=True)) & ~outside
    for start, stop, range_start, range_stop in (
        (key_from, key_to, pattern.sink_start, pattern.sink_stop),
        (key_from, key_to, pattern.text_start, pattern.text_stop),
        (query_from, query_to, pattern.text_start, pattern.text_stop),
    ):
        kept = kept | _overlap(start, stop, range_start, range_stop)[0]
    return kept, distance
