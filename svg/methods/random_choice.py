"""A coin per head: Sparse VideoGen's two patterns dealt out blindly, the measure of what its profiling is worth.

Source: ours. Masks, orders and rounding are those of ``svg``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.bands import BandMethod
from svg.context import AttentionContext
from svg.plan import AttentionInputs, AttentionPlan


@dataclass(frozen=True, kw_only=True)
class RandomChoice(BandMethod):
    """Each head, at each step and layer, is spatial or temporal with probability one half, whatever it attends to.

    The branches of a step and the items of a batch share their coins, and so do devices that split the heads.
    """

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        own = slice(context.head_offset, context.head_offset + inputs.num_heads)
        coins = torch.randint(0, 2, (1, context.num_heads or own.stop), generator=context.generator)
        return AttentionPlan(self.palette(context.layout), coins[:, own], inputs.key_lengths)
