"""Choose tiles by rank within a budget, for many heads at once, where no pattern says which tiles come first."""

from __future__ import annotations

import torch

from svg.block_mask import SKIPPED, BlockMask, tile_offsets
from svg.pattern import TokenPattern


def pattern_tiles(pattern: TokenPattern, block_size: int) -> torch.Tensor:
    """Return the tiles that ``pattern`` touches, bool ``(query_tiles, key_tiles)``."""
    return BlockMask.from_pattern(pattern, block_size, block_size).tile_map != SKIPPED


def tile_areas(seq_len: int, block_size: int) -> torch.Tensor:
    """Return the pairs in each tile, int64 ``(tiles, tiles)``; the last tile of a row or column may be smaller."""
    sizes = tile_offsets(seq_len, block_size).diff()
    return sizes[:, None] * sizes[None, :]


def choose_tiles(first: torch.Tensor, rank: torch.Tensor, areas: torch.Tensor, budget: float) -> torch.Tensor:
    """Return the tiles kept: those of ``first``, then by ascending rank as many as the budget holds.

    Args:
        first: Tiles kept whatever their rank, bool ``(heads or 1, query_tiles, key_tiles)``.
        rank: float ``(heads, query_tiles, key_tiles)``; equal ranks are taken in the order of the map.
        areas: Pairs in each tile, ``(query_tiles, key_tiles)``.
        budget: Pairs that may be kept; the sum comes within one tile of it, from below. The caller has made sure that
            ``first`` fits.

    Returns:
        bool ``(heads, query_tiles, key_tiles)`` on the device of ``rank``; nothing waits for the device.
    """
    heads, shape = rank.shape[0], rank.shape[1:]
    areas = areas.to(rank.device).flatten()
    first = first.to(rank.device).expand(heads, *shape).flatten(1)
    order = rank.flatten(1).masked_fill(first, -torch.inf).argsort(dim=1, stable=True)
    fits = areas[order].cumsum(1) <= budget
    return torch.zeros_like(first).scatter_(1, order, fits).view(heads, *shape)


def evenly_over_rows(scores: torch.Tensor, tie: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Return ranks under which all rows of tiles grow together: the place of a score within its row, plus a fraction.

    Args:
        scores: float ``(heads, query_tiles, key_tiles)``, at least 0: the order within a row.
        tie: float ``(heads, query_tiles, 1)`` in [0, 1): which rows get the last tiles.
        first: Tiles kept anyway, bool ``(heads or 1, query_tiles, key_tiles)``; they hold a row's first places.

    Returns:
        float64, the shape of ``scores``.
    """
    ascending = scores.masked_fill(first.to(scores.device), -1).argsort(dim=2, stable=True)
    places = torch.arange(scores.shape[2], device=scores.device, dtype=torch.float64).expand_as(scores)
    return torch.empty_like(places).scatter_(2, ascending, places) + tie
