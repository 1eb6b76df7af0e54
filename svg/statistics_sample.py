"""Which attention calls of a generation give statistics, and on which rows: few enough to cost next to nothing."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from svg.context import AttentionContext
from svg.pattern_statistics import HeadStatistics, head_statistics
from svg.placement import send
from svg.plan import AttentionInputs, AttentionPlan


@dataclass(frozen=True, kw_only=True)
class StatisticsSample:
    """What ``svg.attach`` takes as ``statistics``: one layer in some, one step in some, some rows of each call.

    Layers and steps lie evenly spread, each in the middle of its share, and every branch of them is measured, dense or
    sparse. The rows are drawn without replacement, apart from what the method draws: an error on a method's own rows
    would flatter its choice.

    Args:
        layers_apart: One layer in so many is measured, at least 1.
        steps_apart: One step in so many is measured, at least 1.
        num_rows: Queries per call, at least 1; all where there are fewer.

    Raises:
        ValueError: If a number is below 1.
    """

    # What several processes measure, each of its heads, can stand in a row.
    joins_heads: ClassVar[bool] = True

    layers_apart: int = 8
    steps_apart: int = 10
    num_rows: int = 256

    def __post_init__(self) -> None:
        for name in ("layers_apart", "steps_apart", "num_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"statistics.{name} is {getattr(self, name)}; it must be at least 1")

    def covers(self, context: AttentionContext) -> bool:
        """Return whether a call is measured."""
        is_layer = context.layer in spread(context.num_layers, self.layers_apart)
        return is_layer and context.step in spread(context.num_steps, self.steps_apart)

    def measure(self, inputs: AttentionInputs, plan: AttentionPlan, context: AttentionContext) -> HeadStatistics:
        """Return the statistics of a call under the plan that it computes; does not wait for the device."""
        lengths = inputs.key_lengths
        stop = context.layout.seq_len if lengths is None else int(lengths.min())
        rows = torch.randperm(stop, generator=_generator(context))[: self.num_rows]
        query = inputs.query().index_select(2, send(rows, inputs.device))
        return head_statistics(query, inputs.key(), inputs.value(), rows, context.layout, plan)


def spread(count: int, apart: int) -> tuple[int, ...]:
    """Return indices below ``count``, one in ``apart`` and at least one, each in the middle of its share."""
    picked = math.ceil(count / apart)
    return tuple((2 * index + 1) * count // (2 * picked) for index in range(picked))


def _generator(context: AttentionContext) -> torch.Generator:
    digest = hashlib.sha256(f"statistics/{context.seed}/{context.step}/{context.layer}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
