"""How much faster sparse runs are than their dense twins, over how much of the attention was computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures import look
from analysis.figures.series import MissingRows, draw_curves, drawable, families, interval_note
from analysis.hardware import column
from analysis.steps import step_runs

# Panels: a quantity and its title.
_PANELS = {"attention_speedup": "attention, sparse calls", "speedup": "whole {}"}
_DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
_SPEEDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 6, 10, 20)


@look.in_one_look
def speedup_over_density(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw the speed-up of attention and of the whole over the executed density, beside 1 / density.

    Both axes are logarithmic. A line is a method on one backend against one dense backend; runs of
    ``experiments.step_latency`` are speed-ups of one step, others of a generation.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        output: Path without a suffix.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If no sparse run has a speed-up.
    """
    table, notes = drawable(measurements, runs, ["speedup", "density_executed"])
    # A dense run is its own twin, save where another kernel was asked for.
    table = table[(table["method"] != "dense") | (table["psnr_db_noise"] == "noise floor")]
    if table.empty:
        raise MissingRows("no sparse run below this folder has a speed-up; python -m experiments.compare makes some")
    twins = table["dense_backend"].unique()
    # Where it differs among the runs of a model, it is in the name already.
    series = [
        (name if len(twins) == 1 or "dense_backend=" in name else f"{name} over {rows['dense_backend'].iloc[0]}", rows)
        for name, rows in families(table)
    ]
    shown = [name for name in _PANELS if table[name].notna().any()]
    figure = look.new_figure(look.PAGE if len(shown) > 1 else look.COLUMN, 2.3)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, quantity in zip(panels, shown, strict=True):
        draw_curves(axes, "density_executed", quantity, series, apart=None)
        lowest = min(0.1, 0.8 * float(table["density_executed"].min()))
        ideal = np.geomspace(lowest, 1.0)
        axes.plot(ideal, 1 / ideal, color=look.GREY, linestyle="--", linewidth=1.0, label="ideal: 1 / density")
        axes.axhline(1.0, color=look.GREY, linewidth=0.6)
        axes.set_xlim(lowest, 1.1)
        look.plain_log_ticks(axes, "x", _DENSITIES)
        look.plain_log_ticks(axes, "y", _SPEEDS)
        axes.set_title(_PANELS[quantity].format(_whole(table, runs)))
        axes.set_xlabel("density executed (tiles of sparse calls)")
        axes.grid()
    panels[0].set_ylabel(f"speed-up over dense {twins[0] if len(twins) == 1 else ''}".strip())
    look.add_legend(figure)
    look.add_notes(figure, [*notes, interval_note(table, "speedup"), *_layers(table, runs)])
    return look.save(figure, output, suffixes)


def _whole(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return of what the whole is: a step, a generation, or both."""
    is_step = table["runs"].str[0].isin(step_runs(runs)["run_id"])
    return " or ".join(["step"] * bool(is_step.any()) + ["generation"] * bool((~is_step).any()))


def _layers(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Return how many layers the steps are of: a model may be cut to a few, which changes the whole's speed-up."""
    steps = step_runs(runs)
    steps = steps[steps["run_id"].isin(table["runs"].explode())]
    found = column(steps, "config.model.transformer.num_layers").dropna()
    texts = {f"{steps.at[index, 'model']} {int(number)}" for index, number in found.items()}
    return [f"Layers of the steps: {', '.join(sorted(texts))}"] if texts else []
