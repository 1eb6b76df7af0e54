"""What figures take from the table of all runs: rows that can be drawn, series of them, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.look import style
from analysis.intervals import few_prompts_text
from analysis.settings import counted, knob_text, machine_texts, natural
from analysis.statistics import Value, estimate
from analysis.summary import FORMATS, QUALITY, full_labels, summary

DENSITY = ("sparsity", "density")
# How far apart points of one place stand, and all of them together, as shares of density.
_APART, SPREAD = 0.012, 0.06


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
        columns: Quantities of the summary; the first one is what the figure is about.
        protocol: Of the quality quantities.
        makes: The experiment that makes runs with such numbers, for the error.

    Raises:
        MissingRows: If no row has all numbers.
    """
    table = summary(measurements, runs, protocol=protocol)
    table["name"] = full_labels(table)
    has_all = table[list(columns)].notna().all(axis=1)
    if not has_all.any():
        raise MissingRows(_why_none(measurements, table, columns, protocol, makes))
    return table[has_all], [
        *machine_notes(runs, table.loc[has_all, "environment"]),
        *_left_out(table, has_all, columns),
    ]


def families(table: pd.DataFrame, apart: Sequence[str] = DENSITY) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows that differ in nothing but the settings ``apart``, under the name that they share, in its order.

    Of a model Sparse VideoGen stands first, so that a method has one look in all figures of like runs.

    The name has the settings in which rows of one model and method differ, the model if there are several, and the
    letter of the machine and code if there are several.
    """
    names = pd.Series("", table.index)
    for _, rows in table.groupby(["model", "method"], sort=False):
        named = differing(rows["knobs"]) - set(apart)
        for place, knobs in rows["knobs"].items():
            text = knob_text({name: value for name, value in knobs.items() if name in named})
            names[place] = f"{rows['method'].iloc[0]} {text}".strip()
    if table["model"].nunique() > 1:
        names = table["model"].astype(str) + " " + names
    if table["environment"].nunique() > 1:
        names += " [" + table["environment"] + "]"
    found = table.groupby(names, sort=False)
    return sorted(
        found, key=lambda one: (one[1]["model"].iloc[0], one[1]["method"].iloc[0] != "svg", natural(str(one[0])))
    )


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


def draw_curves(
    axes: Axes, x: str, y: str, series: Sequence[tuple[str, pd.DataFrame]], *, apart: Literal["sum", "factor"] | None
) -> bool:
    """Draw series from `families` with the 95 % intervals of ``y``; rows without a number are left out.

    Args:
        axes: Where to draw.
        x, y: Columns of the rows.
        series: Names and rows; a name's place here decides its look.
        apart: Where two series have points at one ``x``, all are moved a few hundredths apart, so that their intervals
            can be told apart: on a linear axis by a sum, on a logarithmic one by a factor. None moves nothing.

    Returns:
        Whether points were moved.
    """
    drawn = {index: rows[rows[y].notna()].sort_values(x) for index, (_, rows) in enumerate(series)}
    drawn = {index: rows for index, rows in drawn.items() if len(rows)}
    places = pd.concat([rows[x].round(2).drop_duplicates() for rows in drawn.values()])
    is_moved = apart is not None and bool(places.duplicated().any())
    for place, (index, rows) in enumerate(drawn.items()):
        shift = (place - (len(drawn) - 1) / 2) * min(_APART, SPREAD / len(drawn)) * is_moved
        at = rows[x] * math.exp(4 * shift) if apart == "factor" else rows[x] + shift
        ends = [rows[y] - rows[f"{y}_ci_low"], rows[f"{y}_ci_high"] - rows[y]]
        # A mean may lie outside of its interval by rounding, where all its values are equal.
        intervals = [end.clip(lower=0.0) for end in ends] if ends[0].notna().any() else None
        bars = axes.errorbar(
            at,
            rows[y],
            yerr=intervals,
            label=series[index][0],
            **style(index),
            capsize=2.5,
            elinewidth=1.0,
        )
        # Markers that lie upon each other keep their outlines.
        bars.lines[0].set(markeredgecolor="white", markeredgewidth=0.5)
    return is_moved


def interval_note(table: pd.DataFrame, quantity: str) -> str:
    """Return what there is to say of intervals over few prompts; empty where there are enough, or rows have none."""
    return few_prompts_text(table.loc[table["videos"] > 0, f"{quantity}_prompts"].tolist())


def busy_note(table: pd.DataFrame) -> str:
    """Return of how many videos the machine was busy with something else; empty where of none."""
    busy = table[table["speedup_note"].str.contains("the machine was busy", na=False)]
    lacking, total = int((busy["speedup_total"] - busy["speedup_n"]).sum()), int(table["speedup_total"].sum())
    words = "the machine was busy with something else: their seconds say little, and they have no speed-up."
    return f"During {lacking} of {counted(total, 'video')} {words}" if lacking else ""


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
    missing, partial = [], []
    for is_drawn, (_, row) in zip(has_all, table.iterrows(), strict=True):
        if row["status"] != "complete":
            missing.append(f"{row['runs'][0]} ({row['status']})")
        elif is_drawn:
            short = [name for name in columns if row[f"{name}_n"] < row[f"{name}_total"]]
            partial += [
                f"{row['name']}: {row[f'{name}_n']} of {counted(row[f'{name}_total'], 'video')}" for name in short
            ]
        elif row["method"] != "dense":
            lacking = next(name for name in columns if pd.isna(row[name]))
            # Of a machine's rates, or of a step, nobody asked for what a video has.
            if row["videos"] or row[f"{lacking}_total"]:
                missing.append(f"{row['name']} ({_short_note(row, lacking)})")
    return [listed_note("Not drawn", missing), listed_note("Means over fewer videos", partial)]


def _short_note(row: pd.Series, name: str) -> str:
    heading = FORMATS.get(name, (name, ""))[0]
    if row[f"{name}_infinite"] and row[f"{name}_infinite"] == row[f"{name}_total"]:
        return f"{heading} infinite"
    return f"no {heading}"
