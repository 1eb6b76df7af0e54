"""One pattern for every head: all spatial or all temporal, with Sparse VideoGen's masks and without its profiling.

Source: the fixed-pattern baselines of arXiv:2502.01776. Masks, orders and rounding are those of ``svg``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from svg.bands import BandMethod
from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.method import check_choice
from svg.palette import head_pattern
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern


@dataclass(frozen=True, kw_only=True)
class OnePattern(BandMethod):
    """Every head is of the same kind, at every sparse step and layer.

    Args:
        pattern: ``"spatial"`` or ``"temporal"``.
    """

    pattern: Literal["spatial", "temporal"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("pattern", self.pattern, ("spatial", "temporal"))

    def patterns(self, layout: TokenLayout) -> tuple[HeadPattern, ...]:
        return (head_pattern(layout, self.geometry, self.pattern),)

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        return AttentionPlan(self.patterns(context.layout), torch.zeros(1, 1, dtype=torch.long), inputs.key_lengths)
