"""Dense: full attention under a method's name, so that "no sparsity" runs down the same road as every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern
from svg.schedule import DenseSchedule


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Every call keeps every pair; there is nothing to set."""

    @property
    def density_requested(self) -> float:
        """Fraction of query-key pairs kept."""
        return 1.0

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        """Return that no step or layer needs to be held dense: the plans are dense already."""
        return DenseSchedule(0, 0)

    def patterns(self, layout: TokenLayout) -> tuple[HeadPattern, ...]:
        """Return what heads take; for forecasts."""
        return AttentionPlan.dense().patterns

    def window_tokens(self, layout: TokenLayout) -> int:
        """Return how far a head sees to either side: everywhere."""
        return layout.seq_len

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        return AttentionPlan.dense(inputs.key_lengths)
