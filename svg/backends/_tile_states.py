"""A plan's masks as tiles of one size for a kernel: every pattern on the same grid, listed once for all its heads."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask
from svg.pattern_integers import pattern_integers
from svg.plan import AttentionPlan
from svg_kernels.tile_lists import Lookup, TileLists

# Tiles of the grid: no larger than this, and what a kernel can work with at least.
MOST_TILE, LEAST_TILE = 128, 16

# Tiles of the grid where the plan's own are smaller than the least, or unequal.
COARSE_TILE = 64


def tile_lists(plan: AttentionPlan, seq_len: int, device: torch.device) -> TileLists:
    """Return the lists of a plan's palette on ``device``; kept for the last few palettes."""
    return _lists(tuple(pattern.mask for pattern in plan.patterns), seq_len, device)


@lru_cache(maxsize=4)
def _lists(masks: tuple[BlockMask | None, ...], seq_len: int, device: torch.device) -> TileLists:
    query_size, key_size = (math.gcd(MOST_TILE, size) for size in tile_sizes(masks))
    lookup = None
    if min(query_size, key_size) < LEAST_TILE:
        query_size = key_size = COARSE_TILE
        lookup = _lookup(masks, seq_len, device)
    states = grid_states(masks, seq_len, query_size, key_size)
    integers = [pattern_integers(mask) for mask in masks]
    return TileLists.from_states(states, integers, query_size, key_size, lookup, device)


@lru_cache(maxsize=64)
def tile_sizes(masks: tuple[BlockMask | None, ...]) -> tuple[int, int]:
    """Return the (query, key) size that divides every tile of a palette but the last ones; 1 where some are unequal.

    It is 128 where there is nothing to divide.
    """
    found = [(_tile_size(mask.query_offsets), _tile_size(mask.key_offsets)) for mask in masks if mask is not None]
    queries, keys = (math.gcd(*(sizes[axis] for sizes in found)) for axis in (0, 1))
    return queries or MOST_TILE, keys or MOST_TILE


def _tile_size(offsets: torch.Tensor) -> int:
    """Return the size of all tiles but the last, which is no larger; 1: they are unequal; 0: there is one."""
    sizes = offsets.diff().tolist()
    if len(sizes) == 1:
        return 0
    return sizes[0] if set(sizes[:-1]) == {sizes[0]} and 0 < sizes[-1] <= sizes[0] else 1


def grid_states(masks: tuple[BlockMask | None, ...], seq_len: int, query_size: int, key_size: int) -> torch.Tensor:
    """Return every mask's states on one grid, int8 ``(masks, query_tiles, key_tiles)``; no mask is full everywhere."""
    shape = -(-seq_len // query_size), -(-seq_len // key_size)
    everything = torch.full(shape, FULL, dtype=torch.int8)
    return torch.stack([everything if mask is None else _on_grid(mask, query_size, key_size) for mask in masks])


def _on_grid(mask: BlockMask, query_size: int, key_size: int) -> torch.Tensor:
    """Return the states on a grid: full where every tile of the mask that a cell meets is, skipped likewise."""
    state = mask.tile_map
    for axis, (offsets, size) in enumerate(((mask.query_offsets, query_size), (mask.key_offsets, key_size))):
        if axis == 1:
            state = state.T
        tile = _tile_of(offsets)
        starts = torch.arange(0, tile.numel(), size)
        first, last = tile[starts], tile[(starts + size - 1).clamp(max=tile.numel() - 1)]
        met, whole = (_between(chosen, first, last, offsets) for chosen in (state != SKIPPED, state == FULL))
        state = (met > 0) * PARTIAL + (whole == _between(torch.ones_like(state), first, last, offsets)) * (
            FULL - PARTIAL
        )
    return state.T.to(torch.int8)


def _between(chosen: torch.Tensor, first: torch.Tensor, last: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return how many of the rows first to last are chosen, column by column; rows without tokens do not count."""
    chosen = chosen.long() * (offsets.diff() > 0)[:, None]
    before = torch.cat([torch.zeros(1, chosen.shape[1], dtype=torch.long), chosen.cumsum(0)])
    return before[last + 1] - before[first]


def _tile_of(offsets: torch.Tensor) -> torch.Tensor:
    """Return the tile that holds each token."""
    return torch.repeat_interleave(offsets.diff())


def _lookup(masks: tuple[BlockMask | None, ...], seq_len: int, device: torch.device) -> Lookup:
    # A pattern that keeps everything has no partial tiles: nothing is looked up.
    nothing = torch.zeros(seq_len, dtype=torch.long)
    query_tile = [nothing if mask is None else _tile_of(mask.query_offsets) for mask in masks]
    key_tile = [nothing if mask is None else _tile_of(mask.key_offsets) for mask in masks]
    states = [torch.empty(0, 1, dtype=torch.int8) if mask is None else mask.tile_map for mask in masks]
    begins = torch.tensor([state.numel() for state in states]).cumsum(0) - torch.tensor([s.numel() for s in states])
    places = torch.stack([begins, torch.tensor([state.shape[1] for state in states])], 1)
    return Lookup(
        torch.stack(query_tile).to(device, torch.int32),
        torch.stack(key_tile).to(device, torch.int32),
        torch.cat([state.flatten() for state in states]).to(device),
        places.to(device, torch.int32),
    )
