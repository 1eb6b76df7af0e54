"""Fills the tables of Markdown documents from committed rows, so that no number in them is typed by hand.

    python -m analysis.documents README.md [--check]

A table stands between ``<!-- rows: results/demo -->`` and ``<!-- end of rows -->``; the folder is relative to the
document. In place of ``rows`` (one line per run), ``paired`` says what ``svg`` is better by than the other methods,
``steps`` what single denoising steps took, ``floor`` how far they are from what their machine allows, and ``claims``
what was to be reached and was, by all folders of runs in the one that is named. ``--check`` changes nothing and ends
with status 1 where a table is not what its rows say.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from analysis import load
from analysis.paired import difference_texts, paired, paired_remarks
from analysis.remarks import remarks
from analysis.roofline import floor_lines
from analysis.settings import environments, machine_text
from analysis.steps import step_lines, step_runs
from analysis.summary import FORMATS, cell, full_labels, quality_columns, summary
from analysis.targets import claims_markdown, read_rows
from svg.results import RecordError

_TABLE = re.compile(
    r"(<!-- (?P<kind>rows|paired|steps|floor|claims): (?P<folder>\S+) -->\n).*?(<!-- end of (?P=kind) -->)", re.DOTALL
)


def markdown_table(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return a summary as a Markdown table with the machines it was measured on below.

    Quality that no run could measure is left out of the columns and named below, with its reason.
    """
    quality = quality_columns(table)
    measured = [name for name in quality if (table[f"{name}_n"] > 0).any()]
    columns = ["density_executed", "speedup", "denoise_speedup", "attention_speedup", *measured]
    headings = ["method", *(FORMATS[name][0] for name in columns), "videos"]
    headings[2] += f" vs {', '.join(sorted(table['dense_backend'].dropna().unique()))}"
    lines = [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    for label, (_, row) in zip(full_labels(table), table.iterrows(), strict=True):
        if row["status"] != "complete":
            lines.append(_line([label, f"{row['status']}: {row['error']}", *[""] * (len(headings) - 2)]))
            continue
        lines.append(_line([label, *(_cell(row, name) for name in columns), str(row["videos"])]))
    notes = [*_machines(runs), *remarks(table)]
    # What follows the semicolon is the command that would mend it, of use on that machine only.
    reasons = {name: table[f"{name}_note"].iloc[0].split(";")[0] for name in quality if name not in measured}
    notes += [f"{FORMATS[name][0]} {reason}" for name, reason in reasons.items()]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def paired_table(measurements: pd.DataFrame, runs: pd.DataFrame, quantity: str = "psnr_db") -> str:
    """Return by how much ``svg`` exceeds every other method, a line each, with the machines below.

    Raises:
        RecordError: If no run of another method stands beside one of ``svg``.
    """
    table = paired(measurements, runs, quantity)
    if table.empty:
        raise RecordError(f"no run of another method stands beside one of svg at the same kept fraction ({quantity})")
    headings = ["density", "method", f"svg minus it, {FORMATS[quantity][0]}", "95 % interval", "detectable", "prompts"]
    lines = [_line(headings), _line(["---:", "---", *["---:"] * 4])]
    for row in table.itertuples():
        lines.append(_line([f"{row.density:g}", row.other, *difference_texts(row, quantity), str(row.prompts)]))
    notes = [*_machines(runs), *paired_remarks(table, quantity)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def _cell(row: pd.Series, name: str) -> str:
    """Return a number of a summary's row with its interval, and whether noise alone would explain it."""
    return ", ".join(filter(None, [cell(row, name), row.get(f"{name}_noise")])) or "–"


def _machines(runs: pd.DataFrame) -> list[str]:
    """Return a note on each machine that the runs were made on."""
    machines = environments(runs)
    prefixes = {letter: f"{letter}: " if len(machines) > 1 else "Measured on " for letter in machines}
    return [prefixes[letter] + machine_text(facts) for letter, facts in machines.items()]


def step_markdown(measurements: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return the table of single denoising steps as Markdown, with the machines it was measured on below.

    Raises:
        RecordError: If no run timed a single step.
    """
    if step_runs(runs).empty:
        raise RecordError("no run here is one of experiments.step_latency, and a document takes a table of them")
    [headings, *cells], clocks = step_lines(measurements, runs)
    rule = ["---", "---", "---", *["---:"] * (len(headings) - 3)]
    notes = [*_machines(step_runs(runs)), *clocks]
    return "\n".join([*map(_line, [headings, rule, *cells]), "", *(f"- {note}" for note in notes)])


def floor_markdown(measurements: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return steps beside their floor at measured rates as Markdown.

    Raises:
        RecordError: If no step has such a floor.
    """
    lines = floor_lines(measurements, runs)
    if not lines:
        raise RecordError("no step here has a floor at measured rates, and a document takes a table of them")
    [headings, *cells] = lines
    return "\n".join(map(_line, [headings, [*["---"] * 4, *["---:"] * (len(headings) - 4)], *cells]))


def fill(text: str, root: Path) -> str:
    """Return a document with its tables made anew.

    Raises:
        RecordError: If a folder that it names holds no runs, or none to compare.
    """

    def table(found: re.Match[str]) -> str:
        folder = root / found["folder"]
        if found["kind"] == "claims":
            return f"{found[1]}\n{claims_markdown(*read_rows(folder))}\n\n{found[4]}"
        runs = load.runs(folder)
        if runs.empty:
            raise RecordError(f"{folder} holds no runs, and a document takes a table from it")
        measurements = load.measurements(folder)
        if found["kind"] == "paired":
            made = paired_table(measurements, runs)
        elif found["kind"] == "floor":
            made = floor_markdown(measurements, runs)
        elif found["kind"] == "steps":
            made = step_markdown(measurements, runs)
        else:
            made = markdown_table(summary(measurements, runs), runs)
        return f"{found[1]}\n{made}\n\n{found[4]}"

    return _TABLE.sub(table, text)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.documents", description=__doc__)
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files")
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where a table is out of date")
    options = parser.parse_args(arguments)
    status = 0
    for document in options.documents:
        try:
            text = document.read_text(encoding="utf-8")
            filled = fill(text, document.parent)
        except (OSError, RecordError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if filled != text and options.check:
            print(f"{document}: a table differs from its rows; run python -m analysis.documents {document}")
            status = 1
        elif filled != text:
            document.write_text(filled, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
