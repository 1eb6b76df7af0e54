"""The report's table of paired differences: one method beside the others on the same videos, in every quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.colors import Colors
from analysis.elements import cell, method_name, of_runs, sortable
from analysis.paired import difference_texts, has_several_references, paired_remarks, paired_runs
from analysis.remarks import floor_number, form
from analysis.settings import counted

# A sweep has as many pairs as it likes; these are read.
_MOST = 400


def paired_table(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    qualities: Sequence[str],
    protocol: str,
    colors: Colors,
    places: Mapping[str, int],
) -> str:
    """Return by how much a method exceeds the others, with intervals, what was detectable, and the noise floor.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        qualities: Which quantities; differences have their units.
        protocol: Of the qualities.
        colors: Of the methods.
        places: Place of every run in ``runs``, by its id.
    """
    # Ours, else the first that is sparse.
    reference = "svg" if "svg" in colors.methods else next(iter(colors.methods), "")
    tables = {
        name: table
        for name in (qualities if reference else ())
        if (table := paired_runs(measurements, runs, name, reference, protocol))["prompts"].gt(0).any()
    }
    if not tables:
        return '<p class="empty">No two methods kept the same fraction on the same videos, so none can be paired.</p>'
    several = len({model for table in tables.values() for model in table["model"]}) > 1
    # One method may have several settings at one density, each beside the same others.
    own = any(map(has_several_references, tables.values()))
    texts = ["Other method", *([f"Setting of {reference}"] if own else []), *(["Model"] if several else []), "Quality"]
    numbers = ["Density", f"{reference} minus it", "Low, 95 %", "High, 95 %", "Detectable", "Noise floor", "Prompts"]
    rows = [
        _row(row, name, own, several, colors, places)
        for name, table in tables.items()
        for row in table[table["prompts"] > 0].itertuples()
    ]
    more = f" {counted(len(rows) - _MOST, 'line')} more: python -m analysis.tables --table paired."
    hint = (
        f"{reference} minus the other method at the same requested density, paired by prompt and seed, mean over "
        "prompts with its 95 % interval. An interval that holds 0 shows no difference."
    ) + (more if len(rows) > _MOST else "")
    notes = dict.fromkeys(text for name, table in tables.items() for text in paired_remarks(table, name))
    return (
        sortable("Table of paired differences", texts, numbers, rows[:_MOST])
        + f'<p class="hint">{escape(hint)}</p>'
        + f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in notes)}</ul>'
    )


def _row(row: Any, quantity: str, own: bool, several: bool, colors: Colors, places: Mapping[str, int]) -> str:
    name, template = form(quantity, is_signed=True)
    difference, _, least = difference_texts(row, quantity)
    ends = ["–" if pd.isna(end) else template.format(end) for end in (row.low, row.high)]
    floor = "–" if pd.isna(row.floor) else floor_number(quantity, row.floor)
    tip = f"{counted(row.videos, 'video')}; {counted(row.unpaired, 'prompt')} left out for want of a pair"
    # A method's name may hold spaces.
    known = (name for name in colors.methods if f"{row.other} ".startswith(f"{name} "))
    method = max(known, key=len, default=row.other.partition(" ")[0])
    knobs = row.other.removeprefix(method).lstrip()
    knob = f'<span class="knob">{escape(knobs)}</span>' if knobs else ""
    named = method_name(method, colors.place(row.model, method))
    cells = [
        f'<th scope="row" data-value="{escape(row.other)}">{named}{knob}</th>',
        *([cell(escape(row.reference), row.reference)] if own else []),
        *([cell(escape(row.model), row.model)] if several else []),
        cell(escape(name), name),
        cell(f"{row.density:g}", row.density),
        cell(escape(difference), row.difference, tip),
        *(cell(text, end) for text, end in zip(ends, (row.low, row.high), strict=True)),
        cell(least, row.detectable),
        cell(floor, "1e999" if row.floor == math.inf else row.floor),
        cell(str(row.prompts), row.prompts),
    ]
    return f"<tr{of_runs([*row.other_runs], places)}>{''.join(cells)}</tr>"
