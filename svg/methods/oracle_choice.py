"""Sparse VideoGen's choice with nothing left to chance: every query is profiled. The bound of what sampling can reach.

Source: ours; arXiv:2502.01776 samples a few rows instead. Masks, orders and rounding are those of ``svg``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.bands import SPATIAL, TEMPORAL, BandMethod
from svg.context import AttentionContext
from svg.operations import rows_at_a_time
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern


@dataclass(frozen=True, kw_only=True)
class OracleChoice(BandMethod):
    """Each head takes the pattern with the smaller mean squared error over all queries; ties are spatial.

    Costs more than full attention: it is a yardstick, not a method to run.
    """

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        palette = self.palette(context.layout)
        errors = self.errors(inputs, palette)
        choice = torch.where(errors[TEMPORAL] < errors[SPATIAL], TEMPORAL, SPATIAL)
        return AttentionPlan(palette, choice, inputs.key_lengths, {"error": errors})

    def errors(self, inputs: AttentionInputs, patterns: tuple[HeadPattern, ...]) -> torch.Tensor:
        """Return each pattern's error over all rows, chunk by chunk, ``(patterns, batch, num_heads)``."""
        query, key, value = inputs.query(), inputs.key(), inputs.value()
        positions = torch.arange(inputs.seq_len, device=inputs.device)
        total = torch.zeros(len(patterns), *query.shape[:2], device=inputs.device)
        for rows in positions.split(rows_at_a_time(query)):
            keeps = [pattern.keep(rows[:, None], positions[None, :]) for pattern in patterns]
            total += rows.numel() * inputs.operations.pattern_errors(
                query[:, :, rows], key, value, keeps, torch.float32, inputs.key_lengths
            )
        return total / inputs.seq_len
