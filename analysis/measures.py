"""What rows say of each published quantity: counted operations, times of steps and kernels, what each part brings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from analysis.measured import Measured, counts_of, measured_of, not_timed, of_pair, of_step, ratio, root_of_squares
from analysis.published_tables import Cell
from analysis.record_rows import PRECISION, Rows, Sample
from analysis.timed_steps import Pair


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


def _latency(pair: Pair, steps: float, first: float) -> Sample:
    dense, sparse = pair.dense, pair.sparse
    value = first * dense.value + (steps - first) * sparse.value
    half = root_of_squares(dense.half_width, sparse.half_width, first, steps - first)
    if pair.saved is not None:
        # The dense step is in both.
        half = root_of_squares(dense.half_width, pair.saved.half_width, steps, steps - first)
    return Sample(value, min(dense.n, sparse.n), half)


def _dense_latency(rows: Rows, run: str, cell: Cell) -> Measured | None:
    counts, dense = counts_of(rows, cell), rows.sample(run, "dense_step_s")
    if counts is None or dense is None:
        return None
    steps, _, plan = counts
    return Measured(steps * dense.value, root_of_squares(dense.half_width, 0.0, steps, 0.0), dense.n, (run, plan))


def _speedup(pair: Pair, steps: float, first: float) -> Sample:
    faster = pair.speedup
    value = steps / (first + (steps - first) / faster.value)
    # By how much it changes with the speed-up of one step.
    slope = (value / faster.value) ** 2 * (steps - first) / steps
    return Sample(value, faster.n, root_of_squares(faster.half_width, 0.0, slope, 0.0))


def _attention_share(rows: Rows, run: str, cell: Cell) -> Measured | None:
    whole, part = rows.sample(run, "dense_step_s"), rows.sample(run, "dense_phase_s", "attention")
    return measured_of(ratio(part, whole), run)


def _layout_gain(rows: Rows, run: str, cell: Cell) -> Measured | None:
    """Return sparse attention without the transformation over that with it, each beside its own dense twin.

    One backend computes both: another one's rate is no gain of the layout.
    """
    others = rows.find("step", {**cell.find, "layout_transform": "false"})
    for other in (each for each in others if rows.fact(each, "backend") == rows.fact(run, "backend")):
        gain = ratio(rows.sample(run, "attention_speedup"), rows.sample(other, "attention_speedup"))
        if gain is not None:
            return measured_of(gain, run, other)
    return None


def _kernel_gain(rows: Rows, run: str, cell: Cell) -> Measured | None:
    """Return a dense step with eager norm and rotation over one with ours, from the times of both."""
    dense = rows.sample(run, "dense_step_s")
    for kernel in reversed(rows.find("kernel", {"method": cell.kernel["method"]})):
        eager, ours = (rows.sample(kernel, "latency_ms", name, cell.kernel["prompt"]) for name in ("eager", "ours"))
        if dense is not None and eager is not None and ours is not None:
            saved_s = 1e-3 * float(cell.kernel["calls"]) * (eager.value - ours.value)
            why = "of a step and of a kernel, timed apart"
            return Measured(1 + saved_s / dense.value, n=dense.n, runs=(run, kernel), no_interval=why)
    return None


def _fp8_gain(rows: Rows, cell: Cell) -> Measured:
    """Return a video's latency in 16 bits over that in 8, each under its fastest backend."""
    wide = replace(cell, find={name: text for name, text in cell.find.items() if name != PRECISION})
    return _product(MEASURES["latency_s"](rows, wide), MEASURES["latency_s"](rows, cell), power=-1)


def _whole_gain(rows: Rows, cell: Cell) -> Measured:
    """Return what kernels bring, times what sparsity brings."""
    return _product(MEASURES["kernel_gain"](rows, cell), MEASURES["speedup"](rows, cell))


def _product(one: Measured, other: Measured, power: int = 1) -> Measured:
    """Return one value times another one, or over it; without an interval, as both may come from the same steps."""
    if one.value is None or other.value is None:
        return Measured(missing=one.missing or other.missing)
    runs = tuple(dict.fromkeys((*one.runs, *other.runs)))
    return Measured(
        one.value * other.value**power,
        n=min(one.n, other.n),
        runs=runs,
        is_composed=one.is_composed or other.is_composed,
        no_interval="of several values that rest on the same dense step, so that their errors are not independent",
    )


def _kernel_speedup(rows: Rows, cell: Cell) -> Measured:
    """Return the mean over a kernel's cases of eager over our time."""
    for run in reversed(rows.find("kernel", {"method": cell.kernel["method"]})):
        ratios = []
        for prompt in rows.prompts(run, "latency_ms"):
            eager, ours = (rows.sample(run, "latency_ms", name, prompt) for name in ("eager", "ours"))
            if eager is not None and ours is not None:
                ratios.append(eager.value / ours.value)
        if ratios:
            why = "a mean over shapes, which are no repetitions"
            return Measured(math.fsum(ratios) / len(ratios), n=len(ratios), runs=(run,), no_interval=why)
    return not_timed(rows)


def _nothing(rows: Rows, cell: Cell) -> Measured:
    return Measured(missing=cell.needs)


MEASURES: dict[str, Callable[[Rows, Cell], Measured]] = {
    "quality": _nothing,
    "pflops_dense": _plan("pflops_dense"),
    "pflops_sparse": _plan("pflops_sparse"),
    "latency_s": of_pair(_latency),
    "dense_latency_s": of_step(_dense_latency, is_dense=True),
    "speedup": of_pair(_speedup),
    "attention_share": of_step(_attention_share, is_dense=True),
    "attention_speedup": of_step(lambda rows, run, cell: measured_of(rows.sample(run, "attention_speedup"), run)),
    "layout_gain": of_step(_layout_gain),
    "kernel_gain": of_step(_kernel_gain, is_dense=True),
    "kernel_speedup": _kernel_speedup,
    "fp8_gain": _fp8_gain,
    "whole_gain": _whole_gain,
}
