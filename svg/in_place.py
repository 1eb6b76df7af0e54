"""A head pattern computed where its tokens stand: the same pairs without the reordering, in far more tiles."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask, tile_offsets
from svg.plan import HeadPattern
from svg.reordered import ReorderedPairs


@lru_cache(maxsize=16)
def in_place(pattern: HeadPattern, query_block_size: int, key_block_size: int) -> HeadPattern:
    """Return the pattern that keeps the same pairs in the original order; computed once per pattern.

    A tile is full where all of its pairs are kept and partial where some are. Only pairs in the partial tiles of the
    pattern's own order are looked at one by one.
    """
    mask = pattern.mask
    if mask is None or (pattern.query_order is None and pattern.key_order is None):
        return pattern
    query_offsets = tile_offsets(mask.query_len, query_block_size)
    key_offsets = tile_offsets(mask.key_len, key_block_size)
    kept = _kept_pairs(mask, _tiles(pattern.query_order, query_offsets), _tiles(pattern.key_order, key_offsets))
    area = query_offsets.diff()[:, None] * key_offsets.diff()
    state = torch.where(kept == 0, SKIPPED, torch.where(kept == area, FULL, PARTIAL)).to(torch.int8)
    return HeadPattern(pattern.name, BlockMask(query_offsets, key_offsets, state, ReorderedPairs(pattern)))


def _tile_of(position: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(position, offsets, right=True) - 1


def _tiles(order: torch.Tensor | None, offsets: torch.Tensor) -> torch.Tensor:
    """Return in which tile of the original order the token at each place of an order stands."""
    return _tile_of(torch.arange(int(offsets[-1])) if order is None else order, offsets)


def _kept_pairs(mask: BlockMask, query_tile: torch.Tensor, key_tile: torch.Tensor) -> torch.Tensor:
    """Return how many pairs are kept in each tile of the original order, LongTensor ``(query_tiles, key_tiles)``.

    Args:
        mask: In the order of a pattern.
        query_tile, key_tile: In which tile of the original order the token at each place of that order stands.
    """
    shared = [_shared_tokens(mask.query_offsets, query_tile), _shared_tokens(mask.key_offsets, key_tile)]
    # Whole numbers, exact in float64.
    kept = shared[0].T @ (mask.tile_map == FULL).double() @ shared[1]
    num_tiles = kept.shape[1]
    for row, (start, stop) in enumerate(pairwise(mask.query_offsets.tolist())):
        is_partial = (mask.tile_map[row] == PARTIAL).repeat_interleave(mask.key_offsets.diff())
        if mask.pattern is None or not is_partial.any():
            continue
        query, key = torch.arange(start, stop)[:, None], is_partial.nonzero()[:, 0][None, :]
        is_kept = mask.pattern.keep(query, key)
        tile = (query_tile[query] * num_tiles + key_tile[key])[is_kept]
        kept.view(-1).index_add_(0, tile, torch.ones(tile.numel(), dtype=kept.dtype))
    return kept.round().long()


def _shared_tokens(offsets: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
    """Return how many tokens each tile of an order has of each tile of the original order, float64."""
    own = _tile_of(torch.arange(tile.numel()), offsets)
    shared = torch.zeros(offsets.numel() - 1, int(tile.max()) + 1, dtype=torch.float64)
    return shared.index_put_((own, tile), torch.ones(tile.numel(), dtype=torch.float64), accumulate=True)
