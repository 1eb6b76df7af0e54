"""A head pattern computed where its tokens stand: the same pairs without the reordering, in far more tiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask, tile_offsets
from svg.plan import HeadPattern


@dataclass(frozen=True, eq=False)
class ReorderedPairs:
    """Which pairs of ORIGINAL positions a reordered head pattern keeps; what partial tiles of the original order ask.

    Args:
        pattern: With its mask and its orders.
    """

    pattern: HeadPattern

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether each pair is kept; integer positions broadcast, the result is bool."""
        return self.pattern.keep(query, key)

    def count(self, query: torch.Tensor | None = None, key_length: int | None = None) -> torch.Tensor:
        """Return how many keys below ``key_length`` each query keeps, LongTensor ``(rows,)``."""
        mask = self.pattern.mask
        assert mask is not None
        query = torch.arange(mask.query_len) if query is None else query
        key = torch.arange(mask.key_len if key_length is None else key_length)
        return torch.cat([self.keep(rows[:, None], key[None, :]).sum(1) for rows in query.split(128)])


@lru_cache(maxsize=16)
def in_place(pattern: HeadPattern, query_block_size: int, key_block_size: int) -> HeadPattern:
    """Return the pattern that keeps the same pairs in the original order; computed once per pattern.

    A tile is full where all of its pairs are kept and partial where some are. Goes over all pairs, a row of tiles at a
    time.
    """
    if pattern.mask is None or (pattern.query_order is None and pattern.key_order is None):
        return pattern
    query_offsets = tile_offsets(pattern.mask.query_len, query_block_size)
    key_offsets = tile_offsets(pattern.mask.key_len, key_block_size)
    keys = torch.arange(pattern.mask.key_len)
    rows = []
    for queries in torch.arange(pattern.mask.query_len).split(query_block_size):
        up_to = torch.zeros(keys.numel() + 1, dtype=torch.long)
        up_to[1:] = pattern.keep(queries[:, None], keys[None, :]).sum(0).cumsum(0)
        kept, area = up_to[key_offsets].diff(), queries.numel() * key_offsets.diff()
        state = torch.where(kept == 0, SKIPPED, torch.where(kept == area, FULL, PARTIAL))
        rows.append(state.to(torch.int8))
    mask = BlockMask(query_offsets, key_offsets, torch.stack(rows), ReorderedPairs(pattern))
    return HeadPattern(pattern.name, mask)
