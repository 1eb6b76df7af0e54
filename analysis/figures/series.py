"""What figures take from the table of all runs: rows that can be drawn, series of them, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.look import styles
from analysis.intervals import few_prompts_text
from analysis.settings import counted, knob_text, machine_texts, natural
from analysis.statistics import Value, estimate
from analysis.summary import FORMATS, QUALITY, full_labels, summary

DENSITY = ("sparsity", "density")
# How far apart points of one place stand, and all of them together, as shares of density.
_APART, SPREAD = 0.005, 0.02
# Where points are not moved: by how many points a marker is larger than the next above it, and the first than the last.
_LARGER, _LARGEST = 1.5, 4.0
# What is recorded beside a run and changes none of its numbers; what a backend's name says already.
_PROVENANCE = {"code", "operators", "steps", "whole"}
_BUSY = "the machine was busy"
# Of a figure over density in which points were moved.
SIDE_BY_SIDE = f"Points of several series at one density stand side by side, moved by at most {SPREAD / 2:g}."


class MissingRows(ValueError):
    """The rows lack what a figure shows; the message says what, and what makes it."""


def drawable(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    columns: Sequence[str],
    *,
    protocol: str = "standard",
    makes: str = "experiment=sparsity",
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of the summary that have a number in each column, and notes on their machines and the other rows.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        columns: Quantities of the summary; the first one is what the figure is about. Of ``speedup`` a row has none
            where `is_timed` says so.
        protocol: Of the quality quantities.
        makes: The experiment that makes runs with such numbers, for the error.

    Raises:
        MissingRows: If no row has all numbers.
    """
    table = summary(measurements, runs, protocol=protocol)
    table["name"] = full_labels(table)
    untimed = ""
    if "speedup" in columns:
        untimed = untimed_note(table[table["status"] == "complete"], "Not drawn")
        table["speedup"] = table["speedup"].where(is_timed(table))
    has_all = table[list(columns)].notna().all(axis=1)
    if not has_all.any():
        raise MissingRows(_why_none(measurements, table, columns, protocol, makes))
    return table[has_all], [
        *machine_notes(runs, table.loc[has_all, "environment"]),
        untimed,
        *_left_out(table, has_all, columns),
    ]


def families(
    table: pd.DataFrame, apart: Sequence[str] = DENSITY, *, is_model_named: bool = True
) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows that differ in nothing but the settings ``apart``, under the name that they share, in its order.

    Of a model Sparse VideoGen stands first. The name has the settings in which rows of one model and method differ, the
    model if there are several and it is to be named, and the letter of the machine and code if there are several.
    """
    names = pd.Series("", table.index)
    for _, rows in table.groupby(["model", "method"], sort=False):
        named = differing(rows["knobs"]) - set(apart) - _PROVENANCE
        # A backend's name says its precision.
        if "backend" in named:
            named.discard("backend.precision")
        for place, knobs in rows["knobs"].items():
            text = knob_text(_plain({name: value for name, value in knobs.items() if name in named}))
            names[place] = f"{rows['method'].iloc[0]} {text}".strip()
    if is_model_named and table["model"].nunique() > 1:
        names = table["model"].astype(str) + " " + names
    if table["environment"].nunique() > 1:
        names += " [" + table["environment"] + "]"
    found = [(str(name), rows) for (_, name), rows in table.groupby([table["model"], names], sort=False)]
    return sorted(found, key=lambda one: (one[1]["model"].iloc[0], one[1]["method"].iloc[0] != "svg", natural(one[0])))


def _plain(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return settings by their last names; of two with one name the whole model's, not one kind of its layers'."""
    found: dict[str, Any] = {}
    for name, value in knobs.items():
        own = name.removeprefix("model.transformer.")
        short = own.removeprefix("diffusers.")
        if short == own or f"model.transformer.{short}" not in knobs:
            found[short] = value
    return found


def over_density(table: pd.DataFrame, answers: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of models of which some runs differ in density alone, and a note on the other models.

    Args:
        table: From `drawable`.
        answers: The figures that show what differs among runs of one density.

    Raises:
        MissingRows: If there is no such model.
    """
    of_model = {
        str(model): any(series["density_executed"].round(2).nunique() > 1 for _, series in families(rows))
        for model, rows in table.groupby("model", sort=False)
    }
    if not any(of_model.values()):
        raise MissingRows(
            f"no two runs below this folder differ in density alone, so nothing is drawn over it; {answers} may show "
            "what else differs; python -m experiments.compare -m experiment=sparsity makes some"
        )
    others = [model for model, has_some in of_model.items() if not has_some]
    note = listed_note("Not drawn, as no two of their runs differ in density alone", others, most=len(others))
    return table[table["model"].map(of_model)], [note]


def is_timed(table: pd.DataFrame) -> pd.Series:
    """Return which rows of a summary had the machine to themselves during at least half of their videos."""
    is_busy = table["speedup_note"].str.contains(_BUSY, na=False)
    return ~is_busy | (2 * table["speedup_n"] >= table["speedup_total"])


def differing(knobs: pd.Series) -> set[str]:
    """Return the names of the settings that differ among rows of a summary."""
    texts = pd.DataFrame([{name: str(value) for name, value in one.items()} for one in knobs])
    return {str(name) for name in texts if texts[name].nunique(dropna=False) > 1}


def settings_of(table: pd.DataFrame, runs: pd.DataFrame, name: str) -> pd.Series:
    """Return a setting of each row's method as a number, NaN where it has none."""
    return pd.to_numeric(texts_of(table, runs, f"method.{name}"), errors="coerce").astype(float)


def texts_of(table: pd.DataFrame, runs: pd.DataFrame, name: str) -> pd.Series:
    """Return a setting of each row, by its place such as ``backend.precision``, as recorded; NaN where it has none."""
    values = runs.set_index("run_id").get(f"config.{name}", pd.Series(dtype=object))
    return table["runs"].str[0].map(values)


def means_of(measurements: pd.DataFrame, table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the mean of a quantity for each row of a summary, and its 95 % interval over prompts.

    Every video counts once, with the mean of its values. Columns are named as those of the summary.
    """
    rows = measurements[measurements["quantity"].eq(quantity) & measurements["value"].notna()]
    means = rows.groupby(["run_id", "prompt_id", "seed"])["value"].mean().reset_index()
    found = []
    for ids in table["runs"]:
        own = means[means["run_id"].isin(ids)].itertuples(index=False, name=None)
        one = estimate([Value(run, prompt, seed, None, "ok", value, None) for run, prompt, seed, value in own])
        found.append((one.mean, one.ci_low, one.ci_high))
    return pd.DataFrame(found, table.index, [quantity, f"{quantity}_ci_low", f"{quantity}_ci_high"], dtype=float)


def looks_of(series: Sequence[tuple[str, pd.DataFrame]]) -> dict[str, dict[str, Any]]:
    """Return the look of each name of series from `families`; a name that comes again has one."""
    methods = {name: rows["method"].iloc[0] for name, rows in series}
    return dict(zip(methods, styles(methods.values()), strict=True))


def draw_curves(
    axes: Axes,
    x: str,
    y: str,
    series: Sequence[tuple[str, pd.DataFrame]],
    *,
    apart: Literal["sum", "factor"] | None,
    looks: dict[str, dict[str, Any]] | None = None,
) -> bool:
    """Draw series from `families` with the 95 % intervals of ``y``; rows without a number are left out.

    Args:
        axes: Where to draw.
        x, y: Columns of the rows.
        series: Names and rows.
        apart: Where several series have points at one ``x``, these stand side by side around it, so that their
            intervals can be told apart: on a linear axis moved by a sum of at most ``SPREAD / 2``, on a logarithmic one
            by a factor. Other points are where they are. None moves nothing.
        looks: From `looks_of`, where more series than these share them.

    Returns:
        Whether points were moved.
    """
    looks = looks or looks_of(series)
    drawn = {name: rows[rows[y].notna()].sort_values(x) for name, rows in series}
    drawn = {name: rows for name, rows in drawn.items() if len(rows)}
    places = {name: rows[x].round(2) for name, rows in drawn.items()}
    sharing: dict[float, list[str]] = {}
    for name, own in places.items():
        for place in own.unique():
            sharing.setdefault(place, []).append(name)
    for later, (name, rows) in zip(reversed(range(len(drawn))), drawn.items(), strict=True):
        shift = pd.Series([_shift(sharing[place], name) * (apart is not None) for place in places[name]], rows.index)
        at = rows[x] * (8 * shift).map(math.exp) if apart == "factor" else rows[x] + shift
        ends = [rows[y] - rows[f"{y}_ci_low"], rows[f"{y}_ci_high"] - rows[y]]
        # A mean may lie outside of its interval by rounding, where all its values are equal.
        intervals = [end.clip(lower=0.0) for end in ends] if ends[0].notna().any() else None
        bars = axes.errorbar(
            at,
            rows[y],
            yerr=intervals,
            label=name,
            **looks[name],
            capsize=2.5,
            elinewidth=1.0,
        )
        # Markers that lie upon each other keep their outlines, and where none is moved each is larger than the next.
        bars.lines[0].set(markeredgecolor="white", markeredgewidth=0.5)
        if apart is None:
            larger = min(_LARGER, _LARGEST / max(1, len(drawn) - 1))
            bars.lines[0].set(markersize=bars.lines[0].get_markersize() + larger * later)
    return apart is not None and any(len(names) > 1 for names in sharing.values())


def _shift(sharing: Sequence[str], name: str) -> float:
    """Return how far a series is moved at a place that several share, as a share of density."""
    apart = min(_APART, SPREAD / max(1, len(sharing) - 1))
    return (sharing.index(name) - (len(sharing) - 1) / 2) * apart


def interval_note(table: pd.DataFrame, quantity: str) -> str:
    """Return what there is to say of intervals over few prompts; empty where there are enough, or rows have none."""
    return few_prompts_text(table.loc[table["videos"] > 0, f"{quantity}_prompts"].tolist())


def busy_note(table: pd.DataFrame) -> str:
    """Return of how many videos the machine was busy with something else; empty where of none."""
    busy = table[table["speedup_note"].str.contains(_BUSY, na=False)]
    lacking, total = int((busy["speedup_total"] - busy["speedup_n"]).sum()), int(table["speedup_total"].sum())
    words = "the machine was busy with something else: their seconds say little, and they have no speed-up."
    return f"During {lacking} of {counted(total, 'video')} {words}" if lacking else ""


def untimed_note(table: pd.DataFrame, words: str) -> str:
    """Return what follows for how many settings from `is_timed` being false for them; empty where it is for none."""
    lacking = int((~is_timed(table)).sum())
    why = f"of which more than half of the videos ran while {_BUSY} with something else"
    return f"{words}: {lacking} of {counted(len(table), 'setting')}, {why}." if lacking else ""


def machine_notes(runs: pd.DataFrame, letters: Iterable[str]) -> list[str]:
    """Return a line on each machine and code behind some of the letters of `analysis.settings.describe`."""
    shown = set(letters)
    found = {letter: text for letter, text in machine_texts(runs).items() if letter in shown}
    return [f"[{letter}] {text}." if len(shown) > 1 else f"Measured on {text}." for letter, text in found.items()]


def listed_note(words: str, names: Sequence[str], most: int = 4) -> str:
    """Return a sentence that lists the first names and counts the others; empty where there is none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{words}: {', '.join(names[:most])}{more}." if names else ""


def _why_none(
    measurements: pd.DataFrame, table: pd.DataFrame, columns: Sequence[str], protocol: str, makes: str
) -> str:
    place = f", protocol={protocol}" if columns[0] in QUALITY else ""
    if (table["status"] != "complete").all():
        failed = [f"{row['runs'][0]} ({row['status']}: {row['error']})" for _, row in table.iterrows()]
        return listed_note("no run below this folder is complete", failed).rstrip(".")
    text = f"quantity={columns[0]}{place}: no run below this folder has such a number"
    if table[columns[0]].notna().any():
        text = f"no run below this folder has both {' and '.join(columns)}{place}"
    of_it = measurements[measurements["quantity"].eq(columns[0]) & measurements["value"].notna()]
    others = sorted(set(of_it["protocol"].dropna()) - {protocol})
    if others and place:
        text += f" (there are some in protocol={', '.join(others)})"
    # That a dense run equals its twin is no reason.
    sparse = table[table["method"] != "dense"]
    notes = [note.split(";")[0] for note in sparse[f"{columns[0]}_note"] if note]
    if notes:
        text += f" ({notes[0]})"
    return f"{text}; python -m experiments.compare -m {makes} makes some"


def _left_out(table: pd.DataFrame, has_all: pd.Series, columns: Sequence[str]) -> list[str]:
    """Return sentences on the rows without a number, and on means that lack some videos' numbers."""
    missing: list[str] = []
    partial: list[tuple[str, int, int]] = []
    for is_drawn, (_, row) in zip(has_all, table.iterrows(), strict=True):
        if row["status"] != "complete":
            missing.append(f"{row['runs'][0]} ({row['status']})")
        elif is_drawn:
            short = [name for name in columns if row[f"{name}_n"] < row[f"{name}_total"]]
            partial += [(row["name"], row[f"{name}_n"], row[f"{name}_total"]) for name in short]
        elif row["method"] != "dense":
            lacking = next(name for name in columns if pd.isna(row[name]))
            # `untimed_note` counts these.
            if lacking == "speedup" and not is_timed(row.to_frame().T).item():
                continue
            # Of a machine's rates, or of a step, nobody asked for what a video has.
            if row["videos"] or row[f"{lacking}_total"]:
                missing.append(f"{row['name']} ({_short_note(row, lacking)})")
    return [listed_note("Not drawn", missing), _partial_note(partial)]


def _partial_note(means: Sequence[tuple[str, int, int]], most: int = 4) -> str:
    """Return a sentence on means that lack videos: each by name, or of many the least and the greatest number."""
    if len(means) <= most:
        return listed_note(
            "Means over fewer videos", [f"{name}: {n} of {counted(of, 'video')}" for name, n, of in means]
        )
    counts = [n for _, n, _ in means]
    return f"{len(means)} means are over fewer videos: {min(counts)} to {max(counts)} of {max(of for *_, of in means)}."


def _short_note(row: pd.Series, name: str) -> str:
    heading = FORMATS.get(name, (name, ""))[0]
    if row[f"{name}_infinite"] and row[f"{name}_infinite"] == row[f"{name}_total"]:
        return f"{heading} infinite"
    return f"no {heading}"
