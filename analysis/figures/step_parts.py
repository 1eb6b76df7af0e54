"""Where the time of one denoising step goes, from the dense step to the sparse one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import look
from analysis.figures.series import MissingRows, listed_note, machine_notes
from analysis.figures.speed import layers_note
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
# Prefixes of the quantities of the dense and the sparse step.
_PREFIXES = ("dense_", "")
# Height of a bar and of the room below a group, in inches; what the steps of a group have in common.
_BAR, _GAP = 0.19, 0.12
_ALIKE = ("model", "call", "dense_backend", "linear", "is_compiled", "letter")


@look.in_one_look
def step_parts(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw dense steps and the sparse ones below them as stacked bars of attention, profiling, reordering and the rest.

    There is one dense bar for each model, dense backend and machine. What does not fit a page of A4 goes on to further
    files, ``OUTPUT_1`` and so on.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; those of `experiments.step_latency` are drawn, the
            longest dense step on top.
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
        parts = {prefix: phases.get((row["run_id"], f"{prefix}phase_s"), {}) for prefix in _PREFIXES}
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
    letters = describe(runs)["environment"]
    methods = runs.set_index("run_id")["method"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in bars:
        row |= {"letter": letters[row["run_id"]], "method": methods[row["run_id"]]}
        groups.setdefault(tuple(str(row[name]) for name in _ALIKE), []).append(row)
    ordered = sorted(groups.values(), key=lambda rows: -max(row["dense_s"] for row in rows))
    pages = look.paged([_BAR * (len(rows) + 1) + _GAP for rows in ordered])
    words = (
        "Of each group the dense step is above, the mean over its runs, and the sparse ones are below it with their "
        "densities; a speed-up is over the dense step of the same run."
    )
    shown = {row["letter"] for row in bars}
    calls = {(row["model"], row["call"]) for row in bars}
    notes = [words, *machine_notes(runs, shown), *layers_note([row["run_id"] for row in bars], runs)]
    notes.append(listed_note("Not drawn", left_out))
    paths = []
    for number, page in enumerate(pages, 1):
        own = ordered[page]
        figure = look.new_figure(look.PAGE, 0.5 + sum(_BAR * (len(rows) + 1) + _GAP for rows in own))
        axes = figure.subplots()
        for name, phase in PHASES.items():
            axes.barh(0, 0, label=phase, **_style(name))
        place, ticks = 0.0, {}
        for rows in own:
            first, dense = rows[0], _mean(rows, "dense_")
            several = sum(model == first["model"] for model, _ in calls) > 1
            layers = ", " + first["call"].rpartition(", ")[2] if several else ""
            machine = f" [{first['letter']}]" if len(shown) > 1 else ""
            how = f"{first['linear']}{', compiled' * first['is_compiled']}"
            ticks[place] = f"{first['model']}{layers}{machine}, {first['dense_backend']}{how}"
            _stack(axes, place, dense, f" {dense['total']:.2f} s")
            for row in sorted(rows, key=lambda row: (row["backend"], row["method"], row["density"])):
                place += _BAR
                method = f"{row['method']}, " if len({row["method"] for row in bars}) > 1 else ""
                ticks[place] = f"{method}{row['backend']}, {row['density']:.{_digits(rows)}f}"
                seconds = sum(row["parts"][""].values())
                _stack(axes, place, row["parts"][""], f" {seconds:.2f} s, {row['speedup']:.2f}×")
            place += _BAR + _GAP
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(place - _GAP, -_BAR)
        longest = max(sum(parts.values()) for rows in own for row in rows for parts in row["parts"].values())
        axes.set_xlim(0, 1.1 * longest)
        axes.set_xlabel("seconds of one step")
        look.add_legend(figure)
        look.add_notes(figure, [look.part_text(number, len(pages)), *notes])
        paths += look.save(figure, look.page_path(output, number, len(pages)), suffixes)
    return paths


def _digits(rows: list[dict[str, Any]]) -> int:
    """Return how many digits of the densities of a group tell its rows apart that nothing else does: two, or three."""
    two, three = (
        {(row["backend"], row["method"], f"{row['density']:.{digits}f}") for row in rows} for digits in (2, 3)
    )
    return 2 if len(two) == len(three) else 3


def _mean(rows: list[dict[str, Any]], prefix: str) -> dict[str, float]:
    """Return the mean seconds of each phase over runs, and their ``total``."""
    parts = {name: sum(row["parts"][prefix][name] for row in rows) / len(rows) for name in PHASES}
    return parts | {"total": sum(parts.values())}


def _phases(measurements: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Return the seconds of each phase, by run and quantity; phases without a number are left out."""
    wanted = measurements["quantity"].isin([f"{prefix}phase_s" for prefix in _PREFIXES]) & measurements["value"].notna()
    found: dict[tuple[str, str], dict[str, float]] = {}
    for run, quantity, phase, value in measurements.loc[wanted, ["run_id", "quantity", "protocol", "value"]].itertuples(
        index=False, name=None
    ):
        found.setdefault((run, quantity), {})[phase] = value
    return found


def _stack(axes: Axes, place: float, parts: dict[str, float], text: str) -> None:
    """Draw the phases one after the other as one bar, and a text at its end."""
    left = 0.0
    for name in PHASES:
        axes.barh(place, parts[name], 0.8 * _BAR, left=left, **_style(name))
        left += parts[name]
    axes.text(left, place, text, va="center", fontsize=7)


def _style(name: str) -> dict[str, Any]:
    color, hatch = _LOOKS[name]
    return {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
