"""A value of ours beside a published one, read from a timed step or from a pair of them, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from analysis.published_tables import Cell
from analysis.record_rows import Rows, Sample
from analysis.timed_steps import Pair, pairs, whole_steps


@dataclass(frozen=True)
class Measured:
    """A value of ours beside a published one.

    Args:
        value: None where there is none.
        half_width: Half of its 95 % interval; None where it is counted, or was repeated fewer than 3 times.
        n: Samples behind it; 0 where it is counted.
        runs: Ids of the runs behind it.
        missing: What would measure it; empty where it is measured.
        is_composed: Whether it comes from a step of which only some layers were timed.
        no_interval: Why it has none, though it was timed often enough; empty where it has one, or was not.
    """

    value: float | None = None
    half_width: float | None = None
    n: int = 0
    runs: tuple[str, ...] = ()
    missing: str = ""
    is_composed: bool = False
    no_interval: str = ""


def not_timed(rows: Rows) -> Measured:
    """Return a value that is missing for want of timed steps or kernels."""
    return Measured(missing=f"run make bench-published{' compiled=1' if rows.compiled else ''} on a GPU")


def of_step(
    value: Callable[[Rows, str, Cell], Measured | None], is_dense: bool = False
) -> Callable[[Rows, Cell], Measured]:
    """Make a measure of one that reads the timed step of a run, all layers of it; the fastest of those that fit.

    Args:
        value: Reads the step.
        is_dense: Whether it reads the dense step alone.
    """

    def timed(rows: Rows, cell: Cell) -> Measured:
        found = (value(rows, run, cell) for run in whole_steps(rows, cell, is_dense))
        return next((measured for measured in found if measured is not None), not_timed(rows))

    return timed


def of_pair(value: Callable[[Pair, float, float], Sample]) -> Callable[[Rows, Cell], Measured]:
    """Make a measure of one that reads a dense and a sparse step; the fastest that fits, all layers before a few.

    Args:
        value: Of a pair, the steps of a video and how many of them stay dense.
    """

    def timed(rows: Rows, cell: Cell) -> Measured:
        counts, pair = counts_of(rows, cell), next(pairs(rows, cell), None)
        if counts is None or pair is None:
            return not_timed(rows)
        steps, first, plan = counts
        found = value(pair, steps, first)
        return Measured(found.value, found.half_width, found.n, (*pair.runs, plan), is_composed=pair.saved is not None)

    return timed


def measured_of(sample: Sample | None, *runs: str) -> Measured | None:
    """Return a sample as what was measured, by these runs; None where there is none."""
    return None if sample is None else Measured(sample.value, sample.half_width, sample.n, runs)


def counts_of(rows: Rows, cell: Cell) -> tuple[float, float, str] | None:
    """Return how many steps a video has, how many of them stay dense, and the plan that says so."""
    for run in reversed(rows.find("plan", cell.find)):
        steps, dense = rows.sample(run, "num_steps"), rows.sample(run, "dense_steps")
        if steps is not None and dense is not None:
            return steps.value, dense.value, run
    return None


def ratio(one: Sample | None, other: Sample | None) -> Sample | None:
    """Return one sample over another; None where either is missing."""
    if one is None or other is None:
        return None
    value = one.value / other.value
    return Sample(value, min(one.n, other.n), root_of_squares(one.relative, other.relative, value, value))


def root_of_squares(one: float | None, other: float | None, times: float, other_times: float) -> float | None:
    """Return the half-width of a weighted sum of two independent values."""
    return None if one is None or other is None else math.hypot(times * one, other_times * other)
