"""Sparse VideoGen: sample a few queries, try both patterns on them, give each head the one with the smaller error.

Source: arXiv:2502.01776. Paper to code: the spatial and the temporal mask are the palette, t sampled rows are
``num_sampled_rows``, the mean squared error of a masked output against full attention is ``profile``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from svg.bands import SPATIAL, TEMPORAL, BandMethod
from svg.context import AttentionContext
from svg.in_place import in_place
from svg.layout import TokenLayout
from svg.method import check_choice
from svg.palette import upstream_profiled_patterns
from svg.placement import send
from svg.plan import AttentionInputs, AttentionPlan, HeadPattern


@dataclass(frozen=True, kw_only=True)
class SparseVideoGen(BandMethod):
    """Each head, at each step and layer, is spatial or temporal, decided online.

    Args:
        num_sampled_rows: Queries profiled per call, at least 1; all of them where the sequence is shorter.
        row_range: Where rows are drawn from: ``"all"`` or ``"first_10000"`` (the reference code; the sequence where
            that is shorter).
        profiled_mask: What the decision is made with: ``"executed"``, the mask that runs, or ``"upstream_fixed"``.
        layout_transform: Whether temporal heads are laid out token-major. If False they keep the same pairs where the
            tokens stand, and many more tiles are computed: what the reordering is worth.

    We differ from the reference code, which is ``svg_upstream``: the mask that is profiled is the mask that runs, rows
    come from the whole sequence without replacement, the sink is the first frame for both kinds of head and counts
    towards the density, and errors are computed in float32.
    """

    num_sampled_rows: int = 64
    row_range: Literal["all", "first_10000"] = "all"
    profiled_mask: Literal["executed", "upstream_fixed"] = "executed"
    layout_transform: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_sampled_rows < 1:
            raise ValueError(f"method.num_sampled_rows is {self.num_sampled_rows}; it must be at least 1")
        check_choice("row_range", self.row_range, ("all", "first_10000"))
        check_choice("profiled_mask", self.profiled_mask, ("executed", "upstream_fixed"))

    def palette(self, layout: TokenLayout) -> tuple[HeadPattern, HeadPattern]:
        spatial, temporal = super().palette(layout)
        return spatial, temporal if self.layout_transform else in_place(temporal, *self.geometry.tile)

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        palette = self.palette(context.layout)
        errors = self.profile(inputs, context, self.profiled_patterns(context.layout))
        return AttentionPlan(palette, self.choose(errors), inputs.key_lengths, {"error": errors})

    def profile(
        self, inputs: AttentionInputs, context: AttentionContext, patterns: tuple[HeadPattern, ...]
    ) -> torch.Tensor:
        """Return each pattern's error on the sampled rows, ``(patterns, batch, num_heads)``."""
        rows = send(self.sample_rows(context), inputs.device)
        return inputs.operations.profile(
            inputs.query_rows(rows),
            inputs.key(),
            inputs.value(),
            patterns,
            rows,
            self.profile_dtype,
            inputs.key_lengths,
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
            # The pairs that run, which the layout does not change.
            return super().palette(layout)
        return upstream_profiled_patterns(layout)

    @property
    def profile_dtype(self) -> torch.dtype | None:
        return torch.float32
