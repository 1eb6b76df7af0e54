"""Random tiles: as much as Sparse VideoGen computes, at places that do not depend on what a head attends to.

Source: ours. The density is that of ``svg`` with the same settings, as executed, tile by tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from svg.bands import BandMethod
from svg.block_mask import BlockMask, tile_offsets
from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.pattern import Sink, band, density_too_low
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern
from svg.tile_choice import choose_tiles, evenly_over_rows, pattern_tiles, tile_areas


@dataclass(frozen=True, kw_only=True)
class RandomBlocks(BandMethod):
    """Each head, at each step and layer, gets tiles of its own: text, first frame and diagonal, the rest drawn.

    Tokens stay frame-major. All rows of tiles that text does not fill keep the same number of tiles, give or take one.
    The branches of a step and the items of a batch share their tiles.

    Args:
        pure: Keep neither first frame nor diagonal: text, and the rest drawn.
    """

    shares_masks: ClassVar[bool] = False

    pure: bool = False

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        tiles = self.tiles(context, inputs.num_heads, inputs.device).cpu()
        offsets = tile_offsets(context.layout.seq_len, self.block_size)
        patterns = tuple(HeadPattern("random", BlockMask.from_tiles(keep, offsets, offsets)) for keep in tiles)
        return AttentionPlan(patterns, torch.arange(inputs.num_heads)[None], inputs.key_lengths)

    def tiles(self, context: AttentionContext, num_heads: int, device: torch.device) -> torch.Tensor:
        """Return the tiles that each head keeps, bool ``(num_heads, query_tiles, key_tiles)``, alike on any device."""
        layout, generator = context.layout, context.generator
        first, areas = self.always_kept(layout)[None], tile_areas(layout.seq_len, self.block_size)
        budget = self.pairs_executed(layout)
        least = torch.where(first[0].any(1), (areas * first[0]).sum(1), areas.amax(1)).sum()
        if int(least) > budget:
            raise density_too_low(self.density_requested, int(least) / layout.seq_len**2)
        # Devices that split the heads draw for all of them, and each takes its own.
        own = slice(context.head_offset, context.head_offset + num_heads)
        heads = context.num_heads or own.stop
        drawn = torch.rand(heads, *areas.shape, generator=generator)[own].to(device)
        tie = torch.rand(heads, areas.shape[0], 1, generator=generator)[own].to(device)
        return choose_tiles(first, evenly_over_rows(drawn, tie, first), areas, budget)

    def always_kept(self, layout: TokenLayout) -> torch.Tensor:
        """Return the tiles of text, first frame and diagonal, bool ``(query_tiles, key_tiles)``."""
        sink: Sink = "none" if self.pure else self.sink
        pattern = band(layout, "spatial", sink=sink, half_width=-1 if self.pure else 0)
        return pattern_tiles(pattern, self.block_size)
