"""What rows say of a published value: counted operations, times of single steps and kernels, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from analysis.published_tables import Cell
from analysis.record_rows import Rows, Sample
from analysis.timed_steps import Pair, pairs, whole_steps

BENCH = "run make bench-published on a GPU"


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
    """

    value: float | None = None
    half_width: float | None = None
    n: int = 0
    runs: tuple[str, ...] = ()
    missing: str = ""
    is_composed: bool = False


def measure(rows: Rows, cell: Cell) -> Measured:
    """Return what rows say of a published value."""
    return MEASURES[cell.measure](rows, cell)


def _plan(quantity: str) -> Callable[[Rows, Cell], Measured]:
    def counted(rows: Rows, cell: Cell) -> Measured:
        for run in reversed(rows.find("plan", cell.find)):
            sample = rows.sample(run, quantity)
            if sample is not None:
                return Measured(sample.value, runs=(run,))
        return Measured(missing=f"run make reproduce-{cell.table}, no GPU needed")

    return counted


def _of_step(
    value: Callable[[Rows, str, Cell], Measured | None], is_dense: bool = False
) -> Callable[[Rows, Cell], Measured]:
    """Make a measure of one that reads the timed step of a run, all layers of it; the fastest of those that fit.

    Args:
        value: Reads the step.
        is_dense: Whether it reads the dense step alone.
    """

    def timed(rows: Rows, cell: Cell) -> Measured:
        found = (value(rows, run, cell) for run in whole_steps(rows, cell, is_dense))
        return next((measured for measured in found if measured is not None), Measured(missing=BENCH))

    return timed


def _of_pair(value: Callable[[Pair, float, float], Sample]) -> Callable[[Rows, Cell], Measured]:
    """Make a measure of one that reads a dense and a sparse step; the fastest that fits, all layers before a few.

    Args:
        value: Of a pair, the steps of a video and how many of them stay dense.
    """

    def timed(rows: Rows, cell: Cell) -> Measured:
        counts, pair = _counts(rows, cell), next(pairs(rows, cell), None)
        if counts is None or pair is None:
            return Measured(missing=BENCH)
        steps, first, plan = counts
        found = value(pair, steps, first)
        return Measured(found.value, found.half_width, found.n, (*pair.runs, plan), is_composed=pair.saved is not None)

    return timed


def _of(sample: Sample | None, *runs: str) -> Measured | None:
    return None if sample is None else Measured(sample.value, sample.half_width, sample.n, runs)


def _counts(rows: Rows, cell: Cell) -> tuple[float, float, str] | None:
    """Return how many steps a video has, how many of them stay dense, and the plan that says so."""
    for run in reversed(rows.find("plan", cell.find)):
        steps, dense = rows.sample(run, "num_steps"), rows.sample(run, "dense_steps")
        if steps is not None and dense is not None:
            return steps.value, dense.value, run
    return None


def _latency(pair: Pair, steps: float, first: float) -> Sample:
    dense, sparse = pair.dense, pair.sparse
    value = first * dense.value + (steps - first) * sparse.value
    half = _both(dense.half_width, sparse.half_width, first, steps - first)
    if pair.saved is not None:
        # The dense step is in both.
        half = _both(dense.half_width, pair.saved.half_width, steps, steps - first)
    return Sample(value, min(dense.n, sparse.n), half)


def _dense_latency(rows: Rows, run: str, cell: Cell) -> Measured | None:
    counts, dense = _counts(rows, cell), rows.sample(run, "dense_step_s")
    if counts is None or dense is None:
        return None
    steps, _, plan = counts
    return Measured(steps * dense.value, _both(dense.half_width, 0.0, steps, 0.0), dense.n, (run, plan))


def _speedup(pair: Pair, steps: float, first: float) -> Sample:
    faster = pair.speedup
    value = steps / (first + (steps - first) / faster.value)
    # By how much it changes with the speed-up of one step.
    slope = (value / faster.value) ** 2 * (steps - first) / steps
    return Sample(value, faster.n, _both(faster.half_width, 0.0, slope, 0.0))


def _attention_share(rows: Rows, run: str, cell: Cell) -> Measured | None:
    whole, part = rows.sample(run, "dense_step_s"), rows.sample(run, "dense_phase_s", "attention")
    return _of(_ratio(part, whole), run)


def _layout_gain(rows: Rows, run: str, cell: Cell) -> Measured | None:
    """Return sparse attention without the transformation over that with it, each beside its own dense twin.

    One backend computes both: another one's rate is no gain of the layout.
    """
    others = rows.find("step", {**cell.find, "layout_transform": "false"})
    for other in (each for each in others if rows.fact(each, "backend") == rows.fact(run, "backend")):
        gain = _ratio(rows.sample(run, "attention_speedup"), rows.sample(other, "attention_speedup"))
        if gain is not None:
            return _of(gain, run, other)
    return None


def _kernel_gain(rows: Rows, run: str, cell: Cell) -> Measured | None:
    """Return a dense step with eager norm and rotation over one with ours, from the times of both."""
    dense = rows.sample(run, "dense_step_s")
    for kernel in reversed(rows.find("kernel", {"method": cell.kernel["method"]})):
        eager, ours = (rows.sample(kernel, "latency_ms", name, cell.kernel["prompt"]) for name in ("eager", "ours"))
        if dense is not None and eager is not None and ours is not None:
            saved_s = 1e-3 * float(cell.kernel["calls"]) * (eager.value - ours.value)
            return Measured(1 + saved_s / dense.value, None, dense.n, (run, kernel))
    return None


def _kernel_speedup(rows: Rows, cell: Cell) -> Measured:
    """Return the mean over a kernel's cases of eager over our time."""
    for run in reversed(rows.find("kernel", {"method": cell.kernel["method"]})):
        ratios = []
        for prompt in rows.prompts(run, "latency_ms"):
            eager, ours = (rows.sample(run, "latency_ms", name, prompt) for name in ("eager", "ours"))
            if eager is not None and ours is not None:
                ratios.append(eager.value / ours.value)
        if ratios:
            return Measured(math.fsum(ratios) / len(ratios), n=len(ratios), runs=(run,))
    return Measured(missing=BENCH)


def _nothing(rows: Rows, cell: Cell) -> Measured:
    return Measured(missing=cell.needs)


MEASURES: dict[str, Callable[[Rows, Cell], Measured]] = {
    "quality": _nothing,
    "pflops_dense": _plan("pflops_dense"),
    "pflops_sparse": _plan("pflops_sparse"),
    "latency_s": _of_pair(_latency),
    "dense_latency_s": _of_step(_dense_latency, is_dense=True),
    "speedup": _of_pair(_speedup),
    "attention_share": _of_step(_attention_share, is_dense=True),
    "attention_speedup": _of_step(lambda rows, run, cell: _of(rows.sample(run, "attention_speedup"), run)),
    "layout_gain": _of_step(_layout_gain),
    "kernel_gain": _of_step(_kernel_gain, is_dense=True),
    "kernel_speedup": _kernel_speedup,
}


def _ratio(one: Sample | None, other: Sample | None) -> Sample | None:
    if one is None or other is None:
        return None
    value = one.value / other.value
    return Sample(value, min(one.n, other.n), _both(one.relative, other.relative, value, value))


def _both(one: float | None, other: float | None, times: float, other_times: float) -> float | None:
    """Return the half-width of a weighted sum of two independent values."""
    return None if one is None or other is None else math.hypot(times * one, other_times * other)
