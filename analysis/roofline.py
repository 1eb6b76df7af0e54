"""Steps and videos measured, against the least that the machine's own measured rates allow: a table and a figure.

python -m analysis.roofline runs/bench docs/floor
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype as is_number

from analysis import load
from analysis.figures import look
from analysis.figures.series import machine_notes
from analysis.figures.speed import layers_note
from analysis.hardware import column, machine
from analysis.settings import describe, listed
from analysis.steps import is_compiled, linear_words, step_runs
from svg.results import RecordError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"attention": "attention", "products": "matrix products", "moving": "norms, rotations, residuals"}
PHASES = {
    "attention": "attention",
    "products": "matrix products",
    "profiling": "profiling",
    "reordering": "reordering",
    "rest": "the rest",
}
_LAYERS = "config.model.transformer.num_layers"
# Height in inches of a step and its floor.
_PAIR = 0.4
# Prefix of the quantities: the kind of step.
KINDS = {"dense_": "dense", "": "sparse"}
_COLORS = {
    "attention": "#0072B2", "products": "#009E73", "moving": "#E69F00",
    "profiling": "#CC79A7", "reordering": "#56B4E9", "rest": "#999999",
}  # fmt: skip


def roofline_table(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each kind of step of each run that has a floor at measured rates.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.

    Returns:
        Columns ``model``, ``backend`` (the dense one's of a dense step, and whether linear layers are in FP8), ``gpu``
        (or the CPU), ``kind``, ``step_s``, ``floor_s``, ``share`` (of the step's time that its floor is),
        ``attention_share``, ``video_s`` (whole where it was run, else composed), ``video_floor_s`` (predicted from its
        operations), ``floor_P`` for the parts of the floor and ``phase_P`` for the phases of the step; times in
        seconds. ``run_id``, ``method``, ``dense_backend``, ``is_compiled``, ``linear``, ``layers``, ``density`` and
        ``n`` (repetitions of the step) say what it was; ``phase_products`` is NaN where they were not told apart from
        the rest, which is so of every sparse step.
    """
    chosen = step_runs(runs)
    chosen = chosen.assign(is_compiled=is_compiled(chosen), layers=column(chosen, _LAYERS))
    chosen = chosen[chosen["status"] == "complete"].sort_values(["model", "backend", "created"], kind="stable")
    whole = measurements[measurements["step"].isna() & measurements["value"].notna()]
    counts = whole.set_index(["run_id", "quantity"])["n"]
    counts = counts[~counts.index.duplicated()].to_dict()
    values = whole.set_index([whole["run_id"], whole["quantity"], whole["protocol"].fillna("")])["value"].to_dict()
    rows = []
    for run in chosen.to_dict("records"):
        for prefix, kind in KINDS.items():
            place = {name: (run["run_id"], f"{prefix}{name}") for name in ("measured_floor_s", "phase_s", "video_s")}
            if (*place["measured_floor_s"], "") not in values:
                continue
            # Records that do not count attention in FP8 by itself have it in their floor at the rate of bf16.
            is_fp8 = "_fp8" in run["dense_backend" if prefix else "backend"]
            if is_fp8 and (run["run_id"], f"{prefix}fp8_attention_pflop", "") not in values:
                continue
            row = {name: run[name] for name in ("run_id", "method", "dense_backend", "is_compiled", "layers")}
            row |= {
                "linear": linear_words(run),
                "density": values.get((run["run_id"], "density_executed", "tile")),
                "n": counts.get((run["run_id"], f"{prefix}step_s")),
                "model": run["model"],
                "backend": (run["dense_backend"] if prefix else run["backend"]) + linear_words(run),
                "gpu": machine(run),
                "kind": kind,
                "step_s": values[run["run_id"], f"{prefix}step_s", ""],
                "floor_s": values[*place["measured_floor_s"], ""],
                "share": values[run["run_id"], f"{prefix}measured_floor_share", ""],
                "attention_share": values[run["run_id"], f"{prefix}measured_floor_share", "attention"],
                "video_s": values.get((*place["video_s"], "whole"), values.get((*place["video_s"], "composed"))),
                "video_floor_s": values.get((run["run_id"], f"{prefix}video_floor_s", "")),
            }
            row |= {f"floor_{part}": values[*place["measured_floor_s"], part] for part in PARTS}
            row |= {f"phase_{phase}": values.get((*place["phase_s"], phase), float("nan")) for phase in PHASES}
            # Under a profiler all takes a little longer: what products take of a step is at most its rest.
            products = values.get((run["run_id"], f"{prefix}operator_s", "products"), float("nan"))
            row["phase_products"] = min(products, row["phase_rest"])
            row["phase_rest"] -= row["phase_products"] if products == products else 0.0
            rows.append(row)
    return pd.DataFrame(rows)


def floor_lines(measurements: pd.DataFrame, runs: pd.DataFrame) -> list[list[str]]:
    """Return the cells of the table, its headings first; empty where no step has a floor at measured rates."""
    table = roofline_table(measurements, runs)
    if table.empty:
        return []
    headings = ["model", "step", "backend", "GPU", "step s", "floor s", "reached", "attention reached"]
    lines = [[*headings, "video s", "video floor s"]]
    for row in table.to_dict("records"):
        cells = [row["model"], row["kind"], row["backend"], row["gpu"]]
        cells += [f"{row[name]:.3g}" for name in ("step_s", "floor_s")]
        cells += [f"{row[name]:.0%}" for name in ("share", "attention_share")]
        videos = (row["video_s"], row["video_floor_s"])
        lines.append([*cells, *("–" if pd.isna(value) else f"{value:.3g}" for value in videos)])
    return lines


@look.in_one_look
def measured_against_floor(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw every step as a bar of its phases, and its floor at measured rates as a bar below, and write the figure.

    The dense steps of one model, backend and machine are one bar, their mean. Matrix products are told apart where
    ``operators=true`` measured them. What does not fit a page of A4 goes on to further files, ``OUTPUT_1`` and so on.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        output: Path without a suffix.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        ValueError: If no step below the folder has a floor at measured rates.
    """
    table = roofline_table(measurements, runs)
    if table.empty:
        raise ValueError(
            "no step below this folder has a floor at measured rates; run experiments.rates and then "
            "experiments.step_latency into one runs_dir"
        )
    table = _once(table.assign(letter=table["run_id"].map(describe(runs)["environment"])))
    several = {"letter": table["letter"].nunique() > 1}
    several["layers"] = bool((table.groupby("model")["layers"].nunique() > 1).any())
    counts = sorted({int(count) for count in table["n"].dropna()})
    notes = [
        "The upper bar of a pair is the step, the lower one, hatched, its floor: the least time that the rates allow "
        "which the same machine reached in products and copies; beside them the share of the step that its floor is.",
        "A dense step is the mean over the runs of one model, backend and machine. "
        f"A run's step is the median of {listed(map(str, counts))}.",
    ]
    if table["phase_products"].notna().any():
        notes.append("Matrix products are told apart in dense steps that ran once more under a profiler.")
    notes += [*machine_notes(runs, table["letter"]), *layers_note(table["run_id"], runs)]
    pages = look.paged([_PAIR] * len(table))
    paths = []
    for number, page in enumerate(pages, 1):
        own = table[page].to_dict("records")
        figure = look.new_figure(look.PAGE, 0.5 + _PAIR * len(own))
        axes = figure.subplots()
        for place, row in enumerate(own):
            _stack(axes, place - 0.19, {name: row[f"phase_{name}"] for name in PHASES}, is_floor=False)
            _stack(axes, place + 0.19, {name: row[f"floor_{name}"] for name in PARTS}, is_floor=True)
            axes.text(max(row["step_s"], row["floor_s"]), place, f"  {row['share']:.0%}", va="center", fontsize=7)
        axes.set_yticks(range(len(own)), [_label(row, several) for row in own])
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * float(table[page][["step_s", "floor_s"]].max(axis=None)))
        axes.set_xlabel("seconds of a step")
        for name, words in PHASES.items():
            if not table[f"phase_{name}"].notna().any():
                continue
            axes.barh(0, 0, label=words, **_style(name, is_floor=False))
        for name, words in PARTS.items():
            axes.barh(0, 0, label=f"floor: {words}", **_style(name, is_floor=True))
        look.add_legend(figure)
        look.add_notes(figure, [look.part_text(number, len(pages)), *notes])
        paths += look.save(figure, look.page_path(output, number, len(pages)), suffixes)
    return paths


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one row, of means, for the dense steps of like runs, and the sparse steps after each."""
    alike = ["model", "dense_backend", "linear", "is_compiled", "layers", "gpu", "letter"]
    # A sparse step is its run's alone.
    table = table.assign(of=table["run_id"].where(table["kind"] == "sparse", ""))
    # Only some of the runs may tell products from the rest: the mean of both together is that of all runs.
    table["phase_rest"] += table["phase_products"].fillna(0.0)
    how = {name: "mean" if is_number(table[name]) else "first" for name in table if name not in (*alike, "of")}
    grouped = table.groupby([*alike, "of"], sort=False, dropna=False).agg(how | {"n": "min"}).reset_index()
    grouped["phase_rest"] -= grouped["phase_products"].fillna(0.0)
    order = [*alike, "kind", "backend", "method", "density"]
    return grouped.sort_values(order, kind="stable", ignore_index=True)


def _label(row: dict[str, Any], several: dict[str, bool]) -> str:
    """Return what a step is, on two lines."""
    machine = f" [{row['letter']}]" if several["letter"] else ""
    kind = "dense" if row["kind"] == "dense" else f"{row['method']} {row['density']:.2f}"
    layers = f", {row['layers']:g} layers" if several["layers"] else ""
    return f"{row['model']}{layers}, {kind}{machine}\n{row['backend']}{', compiled' * row['is_compiled']}"


def _stack(axes: Axes, place: float, parts: dict[str, float], *, is_floor: bool) -> None:
    """Draw parts one after the other as one bar: filled, or those of a floor hatched."""
    left = 0.0
    for name, value in parts.items():
        if value > 0:
            axes.barh(place, value, 0.34, left=left, **_style(name, is_floor=is_floor))
            left += value


def _style(name: str, *, is_floor: bool) -> dict[str, Any]:
    color = _COLORS[name]
    if is_floor:
        return {"facecolor": "white", "edgecolor": color, "hatch": "/////", "linewidth": 0.8}
    # Attention and products are of nearly one grey: an edge tells them apart without colour.
    return {"facecolor": color, "edgecolor": "white", "linewidth": 0.3}


def main(arguments: list[str] | None = None) -> int:
    """Draw the figure of a folder of runs; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.roofline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs_dir", type=Path, help="folder of runs")
    parser.add_argument("output", type=Path, help="path of the figure without a suffix")
    options = parser.parse_args(arguments)
    try:
        measurements, runs = load.tables(options.runs_dir)
        paths = measured_against_floor(measurements, runs, options.output)
    except (OSError, ValueError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
