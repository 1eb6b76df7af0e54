"""Somebody else's method: the diagonal, and tiles that lie evenly beside it, the same for every head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.block_mask import BlockMask, tile_offsets
from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.method import SparseMethod
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern
from svg.tile_choice import choose_tiles, tile_areas


@dataclass(frozen=True, kw_only=True)
class GoldenTiles(SparseMethod):
    """Tiles come in the order of (column - row) * ratio mod 1, until the kept fraction is spent.

    Args:
        ratio: In (0, 1); the golden one spreads any number of tiles evenly over a row.
    """

    ratio: float = 0.6180339887498949

    def patterns(self, layout: TokenLayout) -> tuple[HeadPattern, ...]:
        areas = tile_areas(layout.seq_len, self.block_size)
        tile = torch.arange(areas.shape[0])
        rank = ((tile - tile[:, None]) * self.ratio % 1)[None]
        diagonal = torch.eye(areas.shape[0], dtype=torch.bool)[None]
        keep = choose_tiles(diagonal, rank, areas, self.density_requested * layout.seq_len**2)[0]
        offsets = tile_offsets(layout.seq_len, self.block_size)
        return (HeadPattern("golden", BlockMask.from_tiles(keep, offsets, offsets)),)

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        return AttentionPlan(self.patterns(context.layout), torch.zeros(1, 1, dtype=torch.long), inputs.key_lengths)
