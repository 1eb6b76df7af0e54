"""The pairs of a reordered head pattern in the original order, for masks that leave its tokens where they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.block_mask import FULL
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
        if key_length is not None and key_length < mask.key_len:
            key = torch.arange(key_length)
            return torch.cat([self.keep(rows[:, None], key[None, :]).sum(1) for rows in query.split(128)])
        # The order of the keys changes no query's number of them.
        place = query if self.pattern.query_position is None else self.pattern.query_position[query]
        if mask.pattern is not None:
            return mask.pattern.count(place)
        by_tile = ((mask.tile_map == FULL) * mask.key_offsets.diff()).sum(1)
        return by_tile[torch.bucketize(place, mask.query_offsets, right=True) - 1]
