"""Sparse VideoGen that decides at every k-th step only, and keeps each head's pattern in between.

Source: ours; arXiv:2502.01776 decides at every step. Masks, orders and rounding are those of ``svg``.
"""

from __future__ import annotations

from dataclasses import dataclass

from svg.context import AttentionContext
from svg.methods.svg import SparseVideoGen
from svg.plan import AttentionInputs, AttentionPlan


@dataclass(frozen=True, kw_only=True)
class CachedChoice(SparseVideoGen):
    """Each head is spatial or temporal, decided online at the first sparse step and every ``every`` steps after it.

    Args:
        every: Steps from one decision to the next, at least 1; 1 is ``svg``.
    """

    every: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"method.every is {self.every}; it must be at least 1")

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        state = context.state
        if "decided" not in state or context.step - state["decided"] >= self.every:
            decided = super().plan(inputs, context)
            state["decided"], state["assignment"] = context.step, decided.assignment
            return decided
        return AttentionPlan(self.palette(context.layout), state["assignment"], inputs.key_lengths)
