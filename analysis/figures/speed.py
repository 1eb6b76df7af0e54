"""How much faster sparse runs are than their dense twins, over how much of the attention was computed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures import look
from analysis.figures.series import (
    DENSITY,
    MissingRows,
    draw_curves,
    drawable,
    families,
    interval_note,
    looks_of,
    over_density,
)
from analysis.hardware import column
from analysis.steps import step_runs

# Panels: a quantity and its title.
_PANELS = {"attention_speedup": "attention, sparse calls", "speedup": "whole {}"}
_DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
_SPEEDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 6, 10, 20)
# Of a step no setting: how many of a video's are dense, and what a cut model's layers are made of.
_OF_VIDEOS = ("first_times_fp", "first_layers_fp", "model.transformer.diffusers.num_single_layers")
# Height of the lowest panel in inches.
_AXIS = 1.4
# How far beyond the points an axis of speed-ups reaches: intervals end there at the latest.
_BEYOND = 1.6


@look.in_one_look
def speedup_over_density(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw the speed-up of attention and of the whole over the executed density and beside 1 / density, for each model.

    Both axes are logarithmic. A line is a method on one backend against one dense backend; runs of
    ``experiments.step_latency`` are speed-ups of one step, others of a generation. A setting of which fewer than half
    of the videos had the machine to themselves is left out, and said to be.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        output: Path without a suffix.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If no sparse run has a speed-up, or no two of these differ in density alone.
    """
    table, notes = drawable(measurements, runs, ["speedup", "density_executed"])
    # A dense run is its own twin, save where another kernel was asked for.
    table = table[(table["method"] != "dense") | (table["psnr_db_noise"] == "noise floor")]
    if table.empty:
        raise MissingRows("no sparse run below this folder has a speed-up; python -m experiments.compare makes some")
    table, others = over_density(table, "step_parts or quality_over_time")
    notes += others
    twins = table["dense_backend"].unique()
    is_step = table["runs"].str[0].isin(step_runs(runs)["run_id"])
    apart = (*DENSITY, *(_OF_VIDEOS if is_step.all() else ()))
    series = [(_label(name, rows, twins), rows) for name, rows in families(table, apart, is_model_named=False)]
    whole = " or ".join(["step"] * bool(is_step.any()) + ["generation"] * bool((~is_step).any()))
    looks = looks_of(series)
    models = table["model"].unique()
    shown = [name for name in _PANELS if table[name].notna().any()]
    width = look.PAGE if len(shown) > 1 else look.COLUMN
    figure = look.new_figure(width, 2.3 if len(models) == 1 else 1.9 * len(models))
    panels = figure.subplots(len(models), len(shown), squeeze=False)
    lowest = min(0.1, 0.8 * float(table["density_executed"].min()))
    ideal = np.geomspace(lowest, 1.0)
    for line, model in zip(panels, models, strict=True):
        own = [(name, rows) for name, rows in series if rows["model"].iloc[0] == model]
        for axes, quantity in zip(line, shown, strict=True):
            axes.plot(ideal, 1 / ideal, color=look.GREY, linestyle="--", linewidth=1.0, label="ideal: 1 / density")
            axes.axhline(1.0, color=look.GREY, linewidth=0.6)
            draw_curves(axes, "density_executed", quantity, own, apart=None, looks=looks)
            axes.set_xlim(lowest, 1.1)
            points = pd.concat([rows[quantity] for _, rows in own])
            axes.set_ylim(min(1.0, points.min()) / _BEYOND, max(1 / lowest, points.max()) * 1.1)
            look.plain_log_ticks(axes, "x", _DENSITIES)
            look.plain_log_ticks(axes, "y", _SPEEDS)
            axes.set_title(f"{model}: {_PANELS[quantity].format(whole)}")
            axes.grid()
        line[0].set_ylabel(look.fold(f"speed-up over dense {twins[0] if len(twins) == 1 else ''}".strip(), _AXIS))
    for axes in panels[-1]:
        axes.set_xlabel("density executed (tiles of sparse calls)")
    look.add_legend(figure)
    look.add_notes(figure, [*notes, interval_note(table, "speedup"), *layers_note(table["runs"].explode(), runs)])
    return look.save(figure, output, suffixes)


def _label(name: str, rows: pd.DataFrame, twins: Sequence[str]) -> str:
    """Return the name of a series with its backends in words: its twin's where there are several."""
    words = re.sub(r" backend=(\S+)", r" on \1", re.sub(r" dense_backend=\S+", "", name))
    # What is measured of a dense run is its kernel.
    if rows["method"].iloc[0] == "dense" and " on " not in words:
        words = words.replace("dense", f"dense on {rows['backend'].iloc[0]}", 1)
    return words if len(twins) == 1 else f"{words} over {rows['dense_backend'].iloc[0]}"


def layers_note(run_ids: Iterable[str], runs: pd.DataFrame) -> list[str]:
    """Return how many layers the steps are of: a model may be cut to a few, which changes the whole's speed-up."""
    steps = step_runs(runs)
    steps = steps[steps["run_id"].isin(list(run_ids))]
    found = column(steps, "config.model.transformer.num_layers").dropna().astype(int)
    counts = {model: " and ".join(map(str, sorted(set(own)))) for model, own in found.groupby(steps["model"])}
    of_model = [f"{model} {count}".replace(" ", "\N{NO-BREAK SPACE}") for model, count in counts.items()]
    return [f"Layers of the steps: {', '.join(of_model)}."] if of_model else []
