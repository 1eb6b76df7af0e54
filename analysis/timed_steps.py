"""The dense and the sparse step of a published setting: timed with all layers, or composed of those of a few layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.published_tables import Cell
from analysis.record_rows import Rows, Sample


@dataclass(frozen=True)
class Pair:
    """One step dense and sparse, and by how much the sparse one is faster; seconds.

    Args:
        dense, sparse: What they took.
        speedup: The median of the pairs' own where all layers were timed.
        runs: Ids of the runs behind them.
        saved: What the sparse step saves of the dense one, where it was composed of it; None where it was timed.
    """

    dense: Sample
    sparse: Sample
    speedup: Sample
    runs: tuple[str, ...]
    saved: Sample | None = None


def whole_steps(rows: Rows, cell: Cell, is_dense: bool = False) -> list[str]:
    """Return the runs that timed a step of a published value beside the fastest dense one, the fastest first.

    Args:
        rows: Complete runs.
        cell: The published value.
        is_dense: Whether the dense step alone counts, which is the same whatever the sparse one keeps.
    """
    of_model = {name: text for name, text in cell.find.items() if name.partition(".")[0] == "model"}
    found = rows.find("step", of_model if is_dense else cell.find)
    size = _size(rows, cell)
    if size is not None:
        # Of a model at another size, or cut down to a few of its layers, the step is another one.
        found = [run for run in found if rows.size(run) == size]
    speed_of = {run: _seconds(rows, run, "dense_step_s") for run in found}
    # A slower dense backend would make a greater speed-up of the same sparse step.
    best = {rows.fact(run, "dense_backend") for run in sorted(found, key=speed_of.__getitem__)[:1]}
    found = [run for run in found if rows.fact(run, "dense_backend") in best]
    return sorted(found, key=speed_of.__getitem__ if is_dense else lambda run: _seconds(rows, run, "step_s"))


def _seconds(rows: Rows, run: str, quantity: str) -> float:
    sample = rows.sample(run, quantity)
    return math.inf if sample is None else sample.value


def pairs(rows: Rows, cell: Cell) -> Iterator[Pair]:
    """Yield the steps of a published value, the fastest first; those composed of a few layers last."""
    for run in whole_steps(rows, cell):
        dense, sparse, faster = (rows.sample(run, name) for name in ("dense_step_s", "step_s", "speedup"))
        if dense is not None and sparse is not None and faster is not None:
            yield Pair(dense, sparse, faster, (run,))
    size = _size(rows, cell)
    if size is None:
        return
    tokens, layers = size
    for run in rows.find("step", cell.find):
        few = rows.size(run)
        if few[0] == tokens and few[1] < layers and (pair := _composed(rows, cell, run, layers / few[1])) is not None:
            yield pair


def _composed(rows: Rows, cell: Cell, run: str, times: float) -> Pair | None:
    """Return a step of all layers: a dense one, less what the sparse layers of a shorter model save, so many times.

    What stands outside of the layers takes what it takes, dense or sparse. None where some layers stay dense, or where
    no dense step of all layers was timed with the same backend.
    """
    plan = rows.find("plan", cell.find)[-1:]
    if any((dense := rows.sample(each, "dense_layers")) is None or dense.value for each in plan):
        return None
    short, sparse = rows.sample(run, "dense_step_s"), rows.sample(run, "step_s")
    backend = rows.fact(run, "dense_backend")
    alike = [each for each in whole_steps(rows, cell, is_dense=True) if rows.fact(each, "dense_backend") == backend]
    whole = rows.sample(alike[0], "dense_step_s") if alike else None
    if short is None or sparse is None or whole is None:
        return None
    n = min(short.n, sparse.n, whole.n)
    off = _root_of_squares(short.half_width, sparse.half_width)
    saved = Sample(times * (short.value - sparse.value), n, None if off is None else times * off)
    step = Sample(whole.value - saved.value, n, _root_of_squares(whole.half_width, saved.half_width))
    faster = whole.value / step.value
    half = None
    if whole.half_width is not None and saved.half_width is not None:
        # Of whole / (whole - saved), by how much it changes with either.
        half = math.hypot(saved.value * whole.half_width, whole.value * saved.half_width) / step.value**2
    return Pair(whole, step, Sample(faster, n, half), (run, alike[0]), saved)


def _size(rows: Rows, cell: Cell) -> tuple[float, float] | None:
    """Return the tokens and the layers that a value is of, as its plan counts them; None where it has no plan."""
    for plan in rows.find("plan", cell.find)[-1:]:
        tokens, layers = rows.sample(plan, "seq_len"), rows.sample(plan, "num_layers")
        return math.nan if tokens is None else tokens.value, math.nan if layers is None else layers.value
    return None


def _root_of_squares(one: float | None, other: float | None) -> float | None:
    """Return the half-width of a sum of two independent values."""
    return None if one is None or other is None else math.hypot(one, other)
