"""Sparse VideoGen as its reference code has it, quirk by quirk: to reproduce its numbers and to ablate its quirks.

Source: the code published with arXiv:2502.01776, as of December 2025; our own implementation of what it does. Where
``svg`` differs and why stands in ``svg.methods.svg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from svg import schedule
from svg.bands import SPATIAL, TEMPORAL
from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.method import check_choice
from svg.methods.svg import SparseVideoGen
from svg.palette import Geometry, Rounding, upstream_profiled_patterns
from svg.pattern import Sink
from svg.plan import HeadPattern
from svg.schedule import DenseSchedule


@dataclass(frozen=True, kw_only=True)
class SvgUpstream(SparseVideoGen):
    """``svg`` with the reference code's masks, order, sink, rows, precision and thresholds; defaults are those for Wan.

    ``sparsity`` is the reference's own: the share of a band whose sink is not counted, its width rounded to 128 tokens.
    ``density`` keeps its plain meaning: the band is as wide as the share of all pairs allows, token by token.

    Args:
        band_edge: ``"closed"`` (Wan, Cosmos) or ``"open"`` (HunyuanVideo, CogVideoX); see ``svg.palette.Geometry``.
        num_padded_text_tokens: Text tokens counted by the band's width, padding included: 256 for HunyuanVideo. None:
            the layout's.
        profiled_frames: Half-width of the profiled band, in frames, above 0: 2 (Wan, Cosmos) or 1.5.
        profiled_text: ``"kept"`` or ``"cogvideox"``; see ``svg.palette.upstream_profiled_patterns``.
        text_row_turns_all_temporal: CogVideoX's error, in which one sampled text row makes every head of the call
            temporal, through a NaN. If False, sampled text rows are left out, which both patterns keep whole.
        threshold_margin: What is subtracted from the last dense step's timestep, at least 0: 1, for Cosmos 0.01.
        reference_flow_shift: Flow shift of the scheduler from which the threshold is read where its grid is not the
            pipeline's, above 0: 7 for HunyuanVideo. None: the pipeline's own grid.

    We differ in that rows are drawn from ``context.generator`` instead of the global one, from the whole sequence
    where it has fewer than 10000 tokens (the reference stops with an error), and that padding keys get no attention.
    """

    threshold_rule: Literal["step_index", "timestep_value", "timestep_share"] = "timestep_value"
    sink: Sink = "layout"
    rounding: Rounding = "ceil128"
    key_order: Literal["sink_first", "plain"] = "plain"
    row_range: Literal["all", "first_10000"] = "first_10000"
    profiled_mask: Literal["executed", "upstream_fixed"] = "upstream_fixed"
    band_edge: Literal["closed", "open"] = "closed"
    num_padded_text_tokens: int | None = None
    profiled_frames: float = 2.0
    profiled_text: Literal["kept", "cogvideox"] = "kept"
    text_row_turns_all_temporal: bool = False
    threshold_margin: float = 1.0
    reference_flow_shift: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("band_edge", self.band_edge, ("closed", "open"))
        check_choice("profiled_text", self.profiled_text, ("kept", "cogvideox"))
        padded, shift = self.num_padded_text_tokens, self.reference_flow_shift
        if padded is not None and padded < 0:
            raise ValueError(f"method.num_padded_text_tokens is {padded}; it must be at least 0, or null")
        if not self.profiled_frames > 0:
            raise ValueError(f"method.profiled_frames is {self.profiled_frames}; it must be above 0")
        if not self.threshold_margin >= 0:
            raise ValueError(f"method.threshold_margin is {self.threshold_margin}; it must be at least 0")
        if shift is not None and not shift > 0:
            raise ValueError(f"method.reference_flow_shift is {shift}; it must be above 0, or null")

    @property
    def geometry(self) -> Geometry:
        return replace(
            super().geometry,
            rounding=self.rounding if self.density is None else "token",
            band_edge=self.band_edge,
            num_padded_text_tokens=self.num_padded_text_tokens,
        )

    def profiled_patterns(self, layout: TokenLayout) -> tuple[HeadPattern, HeadPattern]:
        if self.profiled_mask == "executed":
            return super().profiled_patterns(layout)
        return upstream_profiled_patterns(layout, self.profiled_frames, self.sink != "none", self.profiled_text)

    def sample_rows(self, context: AttentionContext) -> torch.Tensor:
        """Return the positions of the profiled queries, with replacement; LongTensor ``(rows,)``."""
        layout = context.layout
        stop = layout.seq_len if self.row_range == "all" else min(10000, layout.seq_len)
        rows = torch.randint(0, stop, (min(self.num_sampled_rows, layout.seq_len),), generator=context.generator)
        if self.profiled_text == "cogvideox" and not self.text_row_turns_all_temporal:
            rows = rows[(rows < layout.text_start) | (rows >= layout.text_stop)]
        return rows

    def choose(self, errors: torch.Tensor) -> torch.Tensor:
        """Return the index of the pattern with the smaller error: NaN is the smallest, ties are spatial."""
        if not self.text_row_turns_all_temporal:
            return super().choose(errors)
        return torch.where((errors[TEMPORAL] < errors[SPATIAL]) | errors[TEMPORAL].isnan(), TEMPORAL, SPATIAL)

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        if self.threshold_rule != "timestep_value":
            return super().dense_schedule(num_steps, num_layers, timesteps)
        grid = None
        if self.reference_flow_shift is not None:
            grid = schedule.flow_match_euler_timesteps(num_steps, self.reference_flow_shift)
        return schedule.by_timestep_value(
            self.first_times_fp, self.first_layers_fp, timesteps, num_layers, grid, self.threshold_margin
        )

    @property
    def profile_dtype(self) -> torch.dtype | None:
        """None: the inputs' own precision."""
        return None
