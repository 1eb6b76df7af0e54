"""The tables of runs, of paired differences, of knobs and of single steps, as what `analysis.writer` writes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.footnotes import Footnotes
from analysis.knobs import knob_effects
from analysis.paired import difference_texts, has_several_references, paired, paired_remarks
from analysis.remarks import form, noise_texts, remarks
from analysis.steps import HEADINGS, step_lines, step_runs, step_table
from analysis.summary import FORMATS, cell, full_labels, quality_columns, summary
from analysis.writer import Table
from svg.results import RecordError

_SHOWN = ("density_executed", "speedup", "denoise_speedup", "attention_speedup")
# For CSV: what names a line, and the columns of each quantity.
_NAMED = ("label", "model", "method", "backend", "dense_backend", "environment", "runs", "status", "error", "videos")
_PARTS = ("", "_ci_low", "_ci_high", "_low", "_high", "_prompts", "_n", "_note")
_OVER_PROMPTS = "95 %, t or bootstrap-t over prompts, seeds averaged first, from 3 prompts up"


def summary_view(measurements: pd.DataFrame, runs: pd.DataFrame, protocol: str = "standard") -> Table:
    """Return a line per setting: density, speed and quality; quality that no run could measure becomes a note."""
    table = summary(measurements, runs, protocol=protocol)
    quality = quality_columns(table)
    measured = [name for name in quality if (table[f"{name}_n"] > 0).any()]
    columns = [*_SHOWN, *measured]
    headings = ["method", *(FORMATS[name][0] for name in columns), "videos"]
    headings[2] += f" vs {', '.join(sorted(table['dense_backend'].dropna().unique()))}"
    cells, footnotes = [], Footnotes()
    for label, (_, row) in zip(full_labels(table), table.iterrows(), strict=True):
        if row["status"] != "complete":
            cells.append((label, f"{row['status']}: {row['error']}", *[""] * (len(headings) - 2)))
        else:
            cells.append((label, *(_cell(row, name, footnotes) for name in columns), str(row["videos"])))
    notes = {
        name: next(filter(None, table[f"{name}_note"]), "not measured") for name in quality if name not in measured
    }
    reasons = [f"{FORMATS[name][0]} {_reason(note)}" for name, note in notes.items()]
    marked = [f"[{number}] {text}" for number, text in enumerate(footnotes.texts(), 1)]
    return Table(
        name="runs",
        title=f"Sparse against dense, quality in protocol {protocol}",
        headings=tuple(headings),
        cells=tuple(cells),
        align="l" + "r" * (len(headings) - 1),
        frame=table[[*_NAMED, *(f"{name}{part}" for name in (*_SHOWN, *quality) for part in _PARTS)]],
        runs=runs,
        n="videos (prompts times seeds), as given in each line",
        interval=_OVER_PROMPTS,
        notes=(*remarks(table), *reasons, *marked),
    )


def paired_view(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    quantity: str = "psnr_db",
    reference: str = "svg",
    protocol: str = "standard",
) -> Table:
    """Return by how much a method exceeds every other one on the same prompts.

    Raises:
        RecordError: If no run of another method stands beside one of it.
    """
    table = paired(measurements, runs, quantity, reference, protocol)
    if table.empty:
        raise RecordError(
            f"no run of another method stands beside one of {reference} at the same kept fraction ({quantity}); "
            f"there is {', '.join(runs['run_id'])}"
        )
    name = form(quantity)[0]
    several, own = table["model"].nunique() > 1, has_several_references(table)
    cells = [
        (
            f"{row.density:g}",
            *([row.reference] if own else []),
            f"{row.model} {row.other}" if several else row.other,
            *difference_texts(row, quantity),
            str(row.prompts),
        )
        for row in table.itertuples()
    ]
    return Table(
        name="paired",
        title=f"{reference} minus another method on the same videos, {name} in protocol {protocol}",
        headings=(
            *("density", *([reference, "other"] if own else ["method"])),
            *(f"{reference} minus it, {name}", "95 % interval", "detectable", "prompts"),
        ),
        cells=tuple(cells),
        align="rll"[: 3 if own else 2] + "rrrr",
        frame=table.assign(quantity=quantity),
        runs=runs,
        n="prompts, as given in each line",
        interval=_OVER_PROMPTS,
        notes=tuple(paired_remarks(table, quantity)),
    )


def knobs_view(
    measurements: pd.DataFrame, runs: pd.DataFrame, quantity: str = "psnr_db", protocol: str = "standard"
) -> Table:
    """Return what each knob of the sparse methods is worth, from its least value to its greatest, all else equal.

    Raises:
        RecordError: If no two settings of a sparse method differ in one knob alone.
    """
    table = knob_effects(measurements, runs[runs["method"] != "dense"], quantity, protocol)
    if table.empty:
        raise RecordError(
            f"no two settings of a sparse method here differ in one knob alone and have {quantity}; "
            f"there is {', '.join(runs['run_id'])}"
        )
    name, signed = form(quantity, is_signed=True)
    several = table["model"].nunique() > 1
    cells = [
        (
            " ".join([*([row.model] if several else []), *filter(None, [row.method, row.others])]),
            f"{row.knob}, {_value(row.first)} to {_value(row.last)}",
            signed.format(row.difference),
            "–" if pd.isna(row.low) else f"{signed.format(row.low)} to {signed.format(row.high)}",
            str(row.prompts),
        )
        for row in table.itertuples()
    ]
    return Table(
        name="knobs",
        title=f"What a knob changes on the same videos, {name} in protocol {protocol}",
        headings=("method", "knob", f"change, {name}", "95 % interval", "prompts"),
        cells=tuple(cells),
        align="llrrr",
        frame=table.assign(quantity=quantity),
        runs=runs,
        n="prompts, as given in each line",
        interval=_OVER_PROMPTS,
        notes=tuple(noise_texts(summary(measurements, runs, protocol=protocol))),
    )


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(row: pd.Series, name: str, footnotes: Footnotes) -> str:
    """Return a number of a summary's row with its interval, whether noise alone would explain it, and what it lacks."""
    text = ", ".join(filter(None, [cell(row, name), row.get(f"{name}_noise")])) or "–"
    note = row[f"{name}_note"]
    if not note or row[f"{name}_infinite"] == row[f"{name}_total"]:
        return text
    return f"{'n/a' if pd.isna(row[name]) else text} [{footnotes.number(name, _reason(note))}]"


def _reason(note: str) -> str:
    """Return a note without what follows the semicolon: a command that would mend it, of use on that machine only."""
    return note.split(";")[0]


def steps_view(measurements: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """Return a line for each timed denoising step.

    Raises:
        RecordError: If no run timed a single step.
    """
    chosen = step_runs(runs)
    if chosen.empty:
        raise RecordError(
            f"no run here is one of experiments.step_latency, and a table of steps needs one; there is "
            f"{', '.join(runs['run_id'])}"
        )
    [_, *cells], clocks = step_lines(measurements, runs)
    return Table(
        name="steps",
        title="One denoising step at full size with random weights, sparse beside dense, median of n",
        headings=HEADINGS,
        cells=tuple(map(tuple, cells)),
        align="lll" + "r" * (len(HEADINGS) - 3),
        frame=step_table(measurements, runs),
        runs=chosen,
        n="repetitions of the dense step, as given in each line",
        interval="none",
        notes=tuple(clocks),
    )
