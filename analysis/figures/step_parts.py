"""Where the time of one denoising step goes, from the dense step to the sparse one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import look
from analysis.figures.series import MissingRows, listed_note, machine_notes
from analysis.settings import describe
from analysis.steps import step_table

PHASES = {"attention": "attention", "profiling": "profiling", "reordering": "reordering", "rest": "the rest"}
# Colour and hatching of each: thin slices stay apart without colour, too.
_LOOKS = {
    "attention": ("#0072B2", ""),
    "profiling": ("#CC79A7", "////"),
    "reordering": ("#56B4E9", "...."),
    "rest": ("#999999", ""),
}
# Prefix of the quantities of the upper and the lower bar, and what computed it.
_BARS = {"dense_": "dense_backend", "": "backend"}


@look.in_one_look
def step_parts(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw each dense step and its sparse twin as stacked bars of attention, profiling, reordering and the rest.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; those of `experiments.step_latency` are drawn, a model and its backends
            together with the least density first, the longest dense step on top.
        output: Path without a suffix.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If no complete run timed the phases of a single step.
    """
    table = step_table(measurements, runs)
    phases = _phases(measurements)
    bars, left_out = [], []
    for row in table.to_dict("records"):
        parts = {prefix: phases.get((row["run_id"], f"{prefix}phase_s"), {}) for prefix in _BARS}
        if row["status"] == "complete" and all(set(PHASES) <= set(found) for found in parts.values()):
            bars.append(row | {"parts": parts})
        else:
            reason = "no phases" if row["status"] == "complete" else row["status"]
            left_out.append(f"{row['run_id']} ({reason})")
    if not bars:
        reason = f" ({', '.join(left_out)})" if left_out else ""
        raise MissingRows(
            f"no run below this folder has the phases of a dense and a sparse step{reason}; "
            "python -m experiments.step_latency makes some"
        )
    longest: dict[tuple[str, ...], float] = {}
    for row in bars:
        longest[_pair(row)] = max(row["dense_s"], longest.get(_pair(row), 0.0))
    bars.sort(key=lambda row: (-longest[_pair(row)], _pair(row), row["density"]))
    figure = look.new_figure(look.PAGE, 0.5 + 0.42 * len(bars))
    axes = figure.subplots()
    for name, words in PHASES.items():
        axes.barh(0, 0, label=words, **_style(name))
    letters = describe(runs)["environment"]
    shown = {letters[row["run_id"]] for row in bars}
    ticks = {}
    for index, row in enumerate(bars):
        machine = f" [{letters[row['run_id']]}]" if len(shown) > 1 else ""
        for place, (prefix, backend) in zip((index - 0.19, index + 0.19), _BARS.items(), strict=True):
            seconds = _stack(axes, place, row["parts"][prefix])
            text = f" {seconds:.2f} s" if prefix else f" {seconds:.2f} s, {row['speedup']:.2f}×"
            axes.text(seconds, place, text, va="center", fontsize=7)
            ticks[place] = (
                f"{row['model']}{machine}, {row[backend]}{row['linear']}{', compiled' * row['is_compiled']}"
                if prefix
                else f"{row[backend]}, {row['density']:.2f}"
            )
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max(sum(parts.values()) for row in bars for parts in row["parts"].values()))
    axes.set_xlabel("seconds of one step")
    look.add_legend(figure)
    words = "Of each pair the dense step is above, and below it the sparse one with its density."
    look.add_notes(figure, [words, *machine_notes(runs, shown), listed_note("Not drawn", left_out)])
    return look.save(figure, output, suffixes)


def _pair(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what the steps have in common that stand together: the model, its size and what computes both steps."""
    return tuple(str(row[name]) for name in ("model", "call", "dense_backend", "backend", "linear", "is_compiled"))


def _phases(measurements: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Return the seconds of each phase, by run and quantity; phases without a number are left out."""
    wanted = measurements["quantity"].isin([f"{prefix}phase_s" for prefix in _BARS]) & measurements["value"].notna()
    found: dict[tuple[str, str], dict[str, float]] = {}
    for run, quantity, phase, value in measurements.loc[wanted, ["run_id", "quantity", "protocol", "value"]].itertuples(
        index=False, name=None
    ):
        found.setdefault((run, quantity), {})[phase] = value
    return found


def _stack(axes: Axes, place: float, parts: dict[str, float]) -> float:
    """Draw the phases one after the other as one bar, and return where it ends."""
    left = 0.0
    for name in PHASES:
        axes.barh(place, parts[name], 0.34, left=left, **_style(name))
        left += parts[name]
    return left


def _style(name: str) -> dict[str, Any]:
    color, hatch = _LOOKS[name]
    return {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
