"""The table of all runs for a terminal: a line per setting, footnotes where a number is missing."""

from __future__ import annotations

import shutil
import textwrap

import pandas as pd

from analysis.footnotes import Footnotes
from analysis.remarks import remarks
from analysis.settings import counted, listed, machine_texts
from analysis.summary import FORMATS, QUALITY, cell, full_labels, interval_text, quality_columns, summary

__all__ = ["print_summary", "summary"]

_GAP = "  "
# The interval of every number would not fit: the first of these that do.
_INTERVALS: tuple[tuple[str, ...], ...] = (("speedup", "psnr_db"), ("psnr_db",), ())
# Least width of the first column, on which longer labels wrap.
_LABEL = 24


def print_summary(table: pd.DataFrame, runs: pd.DataFrame, width: int | None = None) -> None:
    """Print a summary for a terminal: at most ``width`` columns wide (by default the terminal's, 120 at most)."""
    width = min(120, width or shutil.get_terminal_size((120, 24)).columns)
    print("\n".join(_lines(table, runs, max(width, 60))))


def _lines(table: pd.DataFrame, runs: pd.DataFrame, width: int) -> list[str]:
    shown = ["density_executed", "speedup", "denoise_speedup", *quality_columns(table)]
    headings = ["method", *(FORMATS[name][0] for name in shown), "videos"]
    # Beside the other one the word is enough, and a line is short.
    headings[3] = "denoising"
    twins = table["dense_backend"].unique()
    if len(twins) == 1:
        headings[2] += f" vs {twins[0]}"
    for intervals in _INTERVALS:
        notes = Footnotes()
        grid = _grid(table, shown, intervals, notes)
        widths = [
            max(len(heading), *(len(cells[index]) for _, cells in grid if isinstance(cells, list)), 0)
            for index, heading in enumerate(headings[1:])
        ]
        room = width - sum(widths) - len(_GAP) * len(widths)
        longest = max(len("method"), *(len(label) for label, _ in grid))
        if room >= min(longest, _LABEL):
            break
    first = min(longest, max(_LABEL, room))
    lines = [*_header(table, runs, width), "", _line("method", headings[1:], first, widths)]
    lines.append("─" * len(lines[-1]))
    for label, texts in grid:
        lines += _wrapped(label, texts, first, widths)
    return [*lines, "", *_legend(table, notes, intervals, width)]


def _grid(
    table: pd.DataFrame, shown: list[str], intervals: tuple[str, ...], notes: Footnotes
) -> list[tuple[str, list[str] | str]]:
    """Return the cells of each row, or its error, beside its label."""
    grid: list[tuple[str, list[str] | str]] = []
    for label, (_, row) in zip(full_labels(table), table.iterrows(), strict=True):
        if row["status"] != "complete":
            grid.append((label, f"{row['status']}: {row['error']}"))
            continue
        cells = [_short_cell(row, name, intervals, notes) for name in shown]
        if table["dense_backend"].nunique() > 1 and cells[1]:
            cells[1] += f" {row['dense_backend']}"
        grid.append((label, [*cells, str(row["videos"])]))
    return grid


def _short_cell(row: pd.Series, name: str, intervals: tuple[str, ...], notes: Footnotes) -> str:
    """A cell with the number of a footnote in place of a long note."""
    note = row[f"{name}_note"]
    if pd.isna(row[name]):
        if row[f"{name}_infinite"] == row[f"{name}_total"]:
            return note.replace(" identical", "")
        return f"n/a {_footnote(name, note, notes)}"
    text = cell(row, name, interval=name in intervals)
    footnotes = [_footnote(name, words, notes) for words in (note, row.get(f"{name}_noise")) if words]
    return " ".join([text, *footnotes])


def _footnote(name: str, note: str, notes: Footnotes) -> str:
    return f"[{notes.number(name, note)}]"


def _line(label: str, cells: list[str], first: int, widths: list[int]) -> str:
    aligned = [text.rjust(size) for text, size in zip(cells, widths, strict=True)]
    return _GAP.join([label.ljust(first), *aligned]).rstrip()


def _wrapped(label: str, cells: list[str] | str, first: int, widths: list[int]) -> list[str]:
    """A row of the grid; a long label goes on below, an error fills the cells' place."""
    labels = textwrap.wrap(label, first, subsequent_indent="  ") or [""]
    if isinstance(cells, list):
        return [_line(labels[0], cells, first, widths), *labels[1:]]
    right = textwrap.wrap(cells, sum(widths) + len(_GAP) * (len(widths) - 1))
    left = labels + [""] * (len(right) - len(labels))
    right += [""] * (len(left) - len(right))
    return [f"{one.ljust(first)}{_GAP}{other}".rstrip() for one, other in zip(left, right, strict=True)]


def _header(table: pd.DataFrame, runs: pd.DataFrame, width: int) -> list[str]:
    failed = int((table["status"] != "complete").sum())
    lines = [
        f"{listed(runs['model'].dropna())}: {counted(len(runs), 'run')}" + (f", {failed} failed" if failed else "")
    ]
    found = machine_texts(runs)
    for letter, text in found.items():
        mark = f"[{letter}] " if len(found) > 1 else ""
        lines += textwrap.wrap(mark + text, width, subsequent_indent="    ")
    return lines


def _legend(table: pd.DataFrame, notes: Footnotes, intervals: tuple[str, ...], width: int) -> list[str]:
    texts = ["density: share of query-key pairs computed in sparse calls, tile by tile."]
    if table["denoise_speedup"].notna().any():
        texts.append("speed-up: of the whole generation; denoising: of its steps alone.")
    if any(interval_text(row, name) for _, row in table.iterrows() for name in intervals):
        texts.append("[low, high]: 95 % interval of the mean over prompts, seeds averaged first.")
    elif not intervals:
        texts.append("No interval fits this width; a wider terminal and the report show them.")
    if any((table[f"{name}_infinite"] > 0).any() for name in QUALITY):
        texts.append("∞: identical to the dense video; in no mean.")
    if table["environment"].nunique() > 1:
        texts.append("Letters: other machines, versions or code; times of two letters do not compare.")
    lines = textwrap.wrap(" ".join([*texts, *remarks(table)]), width)
    for number, note in enumerate(notes.texts(), 1):
        lines += textwrap.wrap(f"[{number}] {note}", width, subsequent_indent="    ", break_on_hyphens=False)
    return lines
