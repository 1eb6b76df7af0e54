"""Steps and videos measured, against the least that the machine's own measured rates allow: a table and a figure.

python -m analysis.roofline runs/bench docs/floor
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis import load
from analysis.figures.look import in_one_look, save
from analysis.hardware import machine
from analysis.steps import linear_words, step_runs
from svg.results import RecordError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"attention": "attention", "products": "matrix products", "moving": "moving"}
PHASES = {"attention": "attention", "profiling": "profiling", "reordering": "reordering", "rest": "the rest"}
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
        seconds.
    """
    chosen = step_runs(runs)
    chosen = chosen[chosen["status"] == "complete"].sort_values(["model", "backend", "created"], kind="stable")
    whole = measurements[measurements["step"].isna() & measurements["value"].notna()]
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
            row = {
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
            row |= {f"phase_{phase}": values[*place["phase_s"], phase] for phase in PHASES}
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


@in_one_look
def measured_against_floor(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = (".png", ".pdf"),
) -> list[Path]:
    """Draw every step as a bar of its phases, and its floor at measured rates as a bar below, and write the figure.

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
    from matplotlib.figure import Figure

    table = roofline_table(measurements, runs)
    if table.empty:
        raise ValueError(
            "no step below this folder has a floor at measured rates; run experiments.rates and then "
            "experiments.step_latency into one runs_dir"
        )
    figure = Figure(figsize=(6.4, 1.0 + 0.62 * len(table)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(table.to_dict("records")):
        _stack(axes, place - 0.19, {name: row[f"phase_{name}"] for name in PHASES}, is_floor=False)
        _stack(axes, place + 0.19, {name: row[f"floor_{name}"] for name in PARTS}, is_floor=True)
        axes.text(max(row["step_s"], row["floor_s"]), place, f"  {row['share']:.0%}", va="center", fontsize=8)
    machines = list(table["gpu"].unique())
    of_row = [f", {gpu}" if len(machines) > 1 else "" for gpu in table["gpu"]]
    rows = zip(table["model"], table["kind"], table["backend"], of_row, strict=True)
    labels = [f"{model} {kind}\n{backend}{on}" for model, kind, backend, on in rows]
    axes.set_yticks(range(len(table)), labels, fontsize=7)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    where = f", {machines[0]}" if len(machines) == 1 else ""
    axes.set_xlabel(f"seconds of a step{where}:\nmeasured (filled), its floor at measured rates (hatched)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    names = PHASES | PARTS
    handles = [axes.barh(0, 0, color=_COLORS[name], label=words) for name, words in names.items()]
    axes.legend(handles=handles, frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return save(figure, output, suffixes)


def _stack(axes: Axes, place: float, parts: dict[str, float], *, is_floor: bool) -> None:
    """Draw parts one after the other as one bar: filled, or those of a floor hatched."""
    left = 0.0
    for name, value in parts.items():
        style = {"facecolor": "white", "edgecolor": _COLORS[name], "hatch": "/////", "linewidth": 0.8}
        axes.barh(place, value, 0.34, left=left, **(style if is_floor else {"color": _COLORS[name]}))
        left += value


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
