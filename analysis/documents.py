"""Fills the tables of Markdown documents from committed rows, so that no number in them is typed by hand.

    python -m analysis.documents README.md [--check]

A table stands between ``<!-- rows: results/demo -->`` and ``<!-- end of rows -->``; the folder is relative to the
document. In place of ``rows`` (one line per run), ``paired`` says what ``svg`` is better by than the other methods (or
what ``paired: FOLDER against SETTING=VALUE`` names, by than the setting's other values), ``knobs`` what each knob
changes from its least value to its greatest, ``steps`` what single denoising steps took, ``floor`` how far they are
from what their machine allows, and ``claims`` what was to be reached and was, by all folders of runs in the one that is
named. A published table beside what was measured stands between ``<!-- published: svg-table1 in results/published
results/h200 -->``, which names all folders of its runs, and ``<!-- end of published -->``. ``--check`` changes nothing
and ends with status 1 where a table is not what its rows say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import hardware, load, reproduce
from analysis.checks import check_complete, check_finite
from analysis.published_tables import read
from analysis.roofline import floor_lines
from analysis.settings import machine_texts
from analysis.targets import claims_markdown, read_rows
from analysis.views import knobs_view, paired_view, steps_view, summary_view
from analysis.writer import Table, grid, line, write
from svg.results import RecordError

_VIEWS: dict[str, Callable[..., Table]] = {
    "rows": summary_view,
    "paired": paired_view,
    "knobs": knobs_view,
    "steps": steps_view,
}

_TABLE = re.compile(
    r"(<!-- (?P<kind>rows|paired|knobs|steps|floor|claims): (?P<folder>\S+?)(?: against (?P<reference>\S+?))? -->\n).*?"
    r"(?P<end><!-- end of (?P=kind) -->)",
    re.DOTALL,
)
_PUBLISHED = re.compile(
    r"(<!-- published: (?P<name>\S+) in (?P<folders>[^>]+?) -->\n).*?(<!-- end of published -->)", re.DOTALL
)


def document_table(table: Table) -> str:
    """Return a table as it stands in a document: the grid, with the machines and what must be known below."""
    # Lines that name no letter come from all of them.
    measured = [] if table.letters else [f"Measured on {text}" for text in machine_texts(table.runs).values()]
    notes = [*dict.fromkeys(measured), *table.below]
    return "\n".join([grid(table), "", *(f"- {note}" for note in notes)])


def floor_markdown(measurements: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return steps beside their floor at measured rates as Markdown.

    Raises:
        RecordError: If no step has such a floor.
    """
    lines = floor_lines(measurements, runs)
    if not lines:
        raise RecordError("no step here has a floor at measured rates, and a document takes a table of them")
    [headings, *cells] = lines
    return "\n".join(map(line, [headings, [*["---"] * 4, *["---:"] * (len(headings) - 4)], *cells]))


def fill(text: str, root: Path) -> str:
    """Return a document with its tables made anew.

    Raises:
        RecordError: If a folder that it names holds no complete run, or none to compare, or a value that is no finite
            number; if a published table would be of several machines or of code that is not committed.
    """

    def table(found: re.Match[str]) -> str:
        folder = root / found["folder"]
        if found["reference"] and found["kind"] != "paired":
            raise RecordError(f"only a paired table is against something, and {found[1].strip()} is none")
        if found["kind"] == "claims":
            return f"{found[1]}\n{claims_markdown(*read_rows(folder))}\n\n{found['end']}"
        measurements, runs = load.tables(folder)
        check_complete(runs)
        check_finite(measurements)
        if found["kind"] == "floor":
            made = floor_markdown(measurements, runs)
        else:
            chosen = {"reference": found["reference"]} if found["reference"] else {}
            made = document_table(_VIEWS[found["kind"]](measurements, runs, **chosen))
        return f"{found[1]}\n{made}\n\n{found['end']}"

    # Documents take many tables from the same folders.
    loaded = cache(lambda folders: reproduce.load_runs(root / folder for folder in folders.split()))

    def published(found: re.Match[str]) -> str:
        made = reproduce.tables_of(read(found["name"]), *loaded(found["folders"]))
        for each in made:
            hardware.check(each.runs)
        return f"{found[1]}\n{write(made, 'markdown')}\n{found[4]}"

    return _PUBLISHED.sub(published, _TABLE.sub(table, text))


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
