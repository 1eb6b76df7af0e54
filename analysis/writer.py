"""Writes any table of `analysis` as Markdown, LaTeX (booktabs) or CSV, with what its caption must say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.hardware import column, hardware
from analysis.latex import latex
from analysis.settings import listed, machine_texts

FORMATS = ("markdown", "latex", "csv")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts, the numbers behind them, and the runs that they come from.

    Args:
        name: In lower case with hyphens; the label in LaTeX.
        title: First sentence of the caption, without its stop.
        headings: Of the columns.
        cells: Texts, a tuple a line, as many as headings.
        align: ``l`` or ``r`` for each column.
        frame: The same lines with unrounded numbers, for CSV; columns of its own.
        runs: Rows of `analysis.load.runs`, those behind the table.
        n: How many samples stand behind a number, in words.
        interval: What kind of interval is given, in words.
        notes: What is missing and why, and what else must be known.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    align: str
    frame: pd.DataFrame
    runs: pd.DataFrame
    n: str
    interval: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert {len(self.headings)} == {len(self.align), *map(len, self.cells)}, "one text for each column"

    @property
    def facts(self) -> dict[str, str]:
        """What a caption must say, by name."""
        dense = listed(sorted(set(self.runs["dense_backend"].dropna()) - {"none"}))
        found = {"n": self.n, "interval": self.interval, "dense backend": dense or "none"}
        return found | {"hardware": listed(hardware(self.runs)) or "none, nothing was timed", "code": self._code}

    @property
    def caption(self) -> str:
        """The title, and in brackets what a reader needs to trust the numbers."""
        return f"{self.title} ({'; '.join(f'{name}: {text}' for name, text in self.facts.items())})"

    @property
    def below(self) -> tuple[str, ...]:
        """What stands below the lines: the machines and code behind their letters, and the notes."""
        return (*(f"[{letter}] {text}" for letter, text in self.letters.items()), *self.notes)

    @property
    def letters(self) -> dict[str, str]:
        """The machine and code behind each letter that a line names."""
        texts = [text for cells in self.cells for text in cells]
        found = machine_texts(self.runs) if len(self.runs) else {}
        return {letter: text for letter, text in found.items() if any(f"[{letter}]" in cell for cell in texts)}

    @property
    def _code(self) -> str:
        known = self.runs[self.runs["status"] != "damaged"]
        commits = column(known, "provenance.commit")
        dirty = column(known, "provenance.dirty").fillna(False).astype(bool)
        texts = [
            ("unknown commit" if pd.isna(commit) else f"commit {commit[:10]}") + " with uncommitted changes" * is_dirty
            for commit, is_dirty in zip(commits, dirty, strict=True)
        ]
        return listed(sorted(texts)) or "none ran"


def write(tables: Sequence[Table], form: str) -> str:
    """Return tables as one text, one below the other; in CSV as the lines of one table.

    Args:
        tables: What is written, one at least.
        form: One of ``FORMATS``.
    """
    if form == "csv":
        return _csv(pd.concat([_with_facts(table) for table in tables], ignore_index=True))
    return "\n".join({"markdown": markdown, "latex": latex}[form](table) for table in tables)


def markdown(table: Table) -> str:
    """Return the caption in bold, the grid, and the notes as a list."""
    notes = [f"- {note}" for note in table.below]
    return "\n".join([f"**{table.caption}.**", "", grid(table), *([""] if notes else []), *notes, ""])


def grid(table: Table) -> str:
    """Return the lines of a Markdown table alone."""
    rule = ["---" if side == "l" else "---:" for side in table.align]
    return "\n".join(line(cells) for cells in (table.headings, rule, *table.cells))


def _with_facts(table: Table) -> pd.DataFrame:
    """Return the unrounded numbers, with the name of the table and the caption's facts in every line."""
    facts = {name.replace(" ", "_"): text for name, text in table.facts.items()}
    # A line has its own n, and may have its own backend.
    return table.frame.assign(table=table.name, **{name: facts[name] for name in facts if name not in table.frame})


def _csv(frame: pd.DataFrame) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows([_plain(value) for value in values] for values in frame.itertuples(index=False))
    return sink.getvalue()


def _plain(value: Any) -> str | int | float:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return "" if value is None or pd.isna(value) else value


def line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
