"""Methods for timing: one that decides for real and then deals the heads out, and one that repeats given plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from svg.context import AttentionContext
from svg.plan import AttentionInputs, AttentionPlan
from svg.schedule import DenseSchedule

# The palette that choices are indices of.
KINDS = ("spatial", "temporal")


def deal(num_layers: int, batch: int, num_heads: int, temporal_share: float, seed: int) -> torch.Tensor:
    """Return which heads are temporal (1), the same share in every layer and batch item, mixed at random.

    Returns:
        LongTensor ``(num_layers, batch, num_heads)``.
    """
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(num_layers, batch, num_heads, generator=generator).argsort(-1)
    return (places < round(temporal_share * num_heads)).long()


@dataclass
class ForcedChoice:
    """A method whose decision is made, paid for and replaced: under random weights all heads tie.

    Args:
        method: Plans.
        choices: From ``deal``, on the device; None leaves every plan as it is.
        keeps_dense_layers: Whether its dense layers stay dense; False for a model too short to have others.
        keeps_dense_steps: Whether its dense steps do: for a whole video, not for a sparse step alone.
    """

    method: Any
    choices: torch.Tensor | None
    keeps_dense_layers: bool = True
    keeps_dense_steps: bool = False
    plans: dict[tuple[int, str], AttentionPlan] = field(default_factory=dict)

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        schedule = self.method.dense_schedule(num_steps, num_layers, timesteps)
        return DenseSchedule(
            schedule.dense_steps if self.keeps_dense_steps else 0,
            schedule.dense_layers if self.keeps_dense_layers else 0,
        )

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        plan: AttentionPlan = self.method.plan(inputs, context)
        if self.choices is not None:
            assert tuple(pattern.name for pattern in plan.patterns) == KINDS
            plan = replace(plan, assignment=self.choices[context.layer])
        self.plans[context.layer, context.branch] = plan
        return plan


@dataclass(frozen=True)
class FixedPlans:
    """Repeats the plans that a ``ForcedChoice`` has made, and decides nothing."""

    made_by: ForcedChoice

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        return self.made_by.dense_schedule(num_steps, num_layers, timesteps)

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        return self.made_by.plans[context.layer, context.branch]
