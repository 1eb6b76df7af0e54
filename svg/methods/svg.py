"""Sparse VideoGen: sample a few queries, try both patterns on them, give each head the one with the smaller error.

Source: arXiv:2502.01776. Paper to code: the spatial and the temporal mask are the palette, t sampled rows are
``num_sampled_rows``, the mean squared error of a masked output against full attention is ``pattern_errors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.method import SparseMethod, check_choice
from svg.palette import Geometry, Rounding, head_patterns, upstream_profiled_patterns
from svg.pattern import Sink
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern

SPATIAL, TEMPORAL = 0, 1


@dataclass(frozen=True, kw_only=True)
class SparseVideoGen(SparseMethod):
    """Each head, at each step and layer, is spatial or temporal, decided online.

    Args:
        num_sampled_rows: Queries profiled per call, at least 1; all of them where the sequence is shorter.
        row_range: Where rows are drawn from: ``"all"`` or ``"first_10000"`` (the reference code; the sequence where
            that is shorter).
        profiled_mask: What the decision is made with: ``"executed"``, the mask that runs, or ``"upstream_fixed"``.
        sink: ``"first_frame"``, ``"layout"`` or ``"none"``; see ``svg.pattern.band``.
        rounding: ``"tile"``, ``"token"``, ``"ceil128"`` or ``"floor128"``; see ``svg.palette.Geometry``.
        key_order: ``"sink_first"`` or ``"plain"``; see ``svg.palette.Geometry``.
        spatial_unit: ``"token"`` (a sliding band) or ``"frame"`` (whole frames, the paper's figure; not with
            rounding=tile).

    We differ from the reference code, which is ``svg_upstream``: the mask that is profiled is the mask that runs, rows
    come from the whole sequence without replacement, the sink is the first frame for both kinds of head and counts
    towards the density, and errors are computed in float32.
    """

    num_sampled_rows: int = 64
    row_range: Literal["all", "first_10000"] = "all"
    profiled_mask: Literal["executed", "upstream_fixed"] = "executed"
    sink: Sink = "first_frame"
    rounding: Rounding = "tile"
    key_order: Literal["sink_first", "plain"] = "sink_first"
    spatial_unit: Literal["token", "frame"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_sampled_rows < 1:
            raise ValueError(f"method.num_sampled_rows is {self.num_sampled_rows}; it must be at least 1")
        check_choice("row_range", self.row_range, ("all", "first_10000"))
        check_choice("profiled_mask", self.profiled_mask, ("executed", "upstream_fixed"))
        check_choice("sink", self.sink, ("first_frame", "layout", "none"))
        check_choice("rounding", self.rounding, ("tile", "token", "ceil128", "floor128"))
        check_choice("key_order", self.key_order, ("sink_first", "plain"))
        check_choice("spatial_unit", self.spatial_unit, ("token", "frame"))

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        palette = self.palette(context.layout)
        errors = self.profile(inputs, context, self.profiled_patterns(context.layout))
        return AttentionPlan(palette, self.choose(errors), inputs.key_lengths, {"error": errors})

    def palette(self, layout: TokenLayout) -> tuple[HeadPattern, HeadPattern]:
        """Return the (spatial, temporal) patterns that run."""
        return head_patterns(layout, self.geometry)

    def profile(
        self, inputs: AttentionInputs, context: AttentionContext, patterns: tuple[HeadPattern, ...]
    ) -> torch.Tensor:
        """Return each pattern's error on the sampled rows, ``(patterns, batch, num_heads)``."""
        rows = self.sample_rows(context).to(inputs.device)
        keys = torch.arange(inputs.seq_len, device=inputs.device)
        keeps = [pattern.keep(rows[:, None], keys[None, :]) for pattern in patterns]
        return inputs.operations.pattern_errors(
            inputs.query_rows(rows), inputs.key(), inputs.value(), keeps, self.profile_dtype, inputs.key_lengths
        )

    def sample_rows(self, context: AttentionContext) -> torch.Tensor:
        """Return the positions of the profiled queries, without replacement; LongTensor ``(rows,)``."""
        stop = context.layout.seq_len if self.row_range == "all" else min(10000, context.layout.seq_len)
        return torch.randperm(stop, generator=context.generator)[: self.num_sampled_rows]

    def choose(self, errors: torch.Tensor) -> torch.Tensor:
        """Return the index of the pattern with the smaller error, ties to spatial; ``(batch, num_heads)``."""
        return torch.where(errors[TEMPORAL] < errors[SPATIAL], TEMPORAL, SPATIAL)

    def profiled_patterns(self, layout: TokenLayout) -> tuple[HeadPattern, HeadPattern]:
        """Return the patterns that are tried on the sampled rows."""
        if self.profiled_mask == "executed":
            return self.palette(layout)
        return upstream_profiled_patterns(layout)

    @property
    def geometry(self) -> Geometry:
        return Geometry(
            self.density_requested, self.block_size, self.rounding, self.sink, self.key_order, self.spatial_unit
        )

    @property
    def profile_dtype(self) -> torch.dtype | None:
        return torch.float32
