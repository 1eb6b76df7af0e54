"""The tiles that hold the most attention, known from full attention: the bound of what a choice of tiles can keep.

Source: ours. The density is that of ``svg`` with the same settings, as executed, tile by tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from svg.bands import BandMethod
from svg.block_mask import BlockMask, tile_offsets
from svg.context import AttentionContext
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern
from svg.tile_choice import choose_tiles, tile_areas


@dataclass(frozen=True, kw_only=True)
class OracleBlocks(BandMethod):
    """Each head keeps the best tile of each row of tiles, then the best of its whole map, by attention per pair.

    Where that is too much, which the least densities on a ragged sequence can make it, the last row keeps its tile on
    the diagonal.
    Tokens stay frame-major; neither text nor first frame nor diagonal is kept for its own sake. Costs more than full
    attention: it is a yardstick, not a method to run.
    """

    shares_masks: ClassVar[bool] = False

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        offsets = tile_offsets(context.layout.seq_len, self.block_size)
        mass = inputs.operations.tile_mass(inputs.query(), inputs.key(), offsets, offsets, inputs.key_lengths)
        batch, num_heads = mass.shape[:2]
        tiles = self.tiles(mass.flatten(0, 1), context).cpu()
        patterns = tuple(HeadPattern("oracle", BlockMask.from_tiles(keep, offsets, offsets)) for keep in tiles)
        return AttentionPlan(patterns, torch.arange(batch * num_heads).view(batch, num_heads), inputs.key_lengths)

    def tiles(self, mass: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """Return the tiles kept, bool; ``mass`` is ``(heads, query_tiles, key_tiles)``, and so is the result."""
        seq_len = context.layout.seq_len
        areas = tile_areas(seq_len, self.block_size)
        per_pair = mass / areas.to(mass.device)
        best = torch.zeros_like(mass, dtype=torch.bool).scatter_(2, per_pair.argmax(2, keepdim=True), True)
        budget = self.pairs_executed(context.layout)
        # The last row of tiles may be lower than the others: its best tile is then larger than its tile on the
        # diagonal, which is what the least density leaves room for.
        diagonal = torch.zeros_like(best[:, -1]).index_fill_(1, torch.tensor([-1], device=best.device), True)
        is_too_much = (best * areas.to(best.device)).sum((1, 2)) > budget
        best[:, -1] = torch.where(is_too_much[:, None], diagonal, best[:, -1])
        return choose_tiles(best, -per_pair, areas, budget)
