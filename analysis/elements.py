"""The elements of which the report's plain HTML is made; whatever text they are given, they hold it as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd


def descriptions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and texts as the items of a description list."""
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)


def cell(text: str, value: Any, tip: str = "") -> str:
    """Return a cell of a sortable table.

    Args:
        text: What it shows, as HTML.
        value: What its column is sorted by; None for last.
        tip: What is said of it where a reader points at it.
    """
    shown = "" if value is None or pd.isna(value) else escape(str(value))
    said = f' tabindex="0" data-tip="{escape(tip)}"' if tip else ""
    return f'<td data-value="{shown}"{said}>{text}</td>'


def sortable(
    label: str, texts: Sequence[str], numbers: Sequence[str], rows: Iterable[str], last: Sequence[str] = ()
) -> str:
    """Return a table that its headings sort, in a box that scrolls sideways.

    Args:
        label: What the table is called for those who hear it.
        texts: Headings of the first columns, sorted as text.
        numbers: Headings of the next ones, sorted as numbers.
        rows: The rows as HTML.
        last: Headings of the last columns, sorted as text.
    """
    head = "".join(
        f'<th scope="col" data-kind="{kind}"><button type="button">{escape(text)}</button></th>'
        for kind, group in (("text", texts), ("number", numbers), ("text", last))
        for text in group
    )
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}">{grid}</div>'


def breakable(name: str) -> str:
    """Return a name that a line may end in, after each of its underscores."""
    return escape(name).replace("_", "_<wbr>")


def of_runs(run_ids: Iterable[str], places: Mapping[str, int]) -> str:
    """Return the attribute that ties an element to its runs, so that the filters hide it where none of them is left.

    Args:
        run_ids: Of the element.
        places: Place of every run in the table of runs, by its id.
    """
    return f' data-runs="{" ".join(str(places[run]) for run in run_ids)}"'


def method_name(method: str, color: int, run: int | None = None) -> str:
    """Return a method in its colour, as a link to a run's details where a place of one is given."""
    style = f' style="--swatch:var(--color-{color})"'
    if run is None:
        return f'<span class="method"{style}>{escape(method)}</span>'
    return f'<a class="method"{style} href="#run-{run}">{escape(method)}</a>'
