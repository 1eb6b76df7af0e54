"""Writes a table of recorded runs for a page, a paper or a program.

    python -m analysis.tables RUNS_DIR [--table runs|paired|knobs|steps] [--format markdown|latex|csv] [--output FILE]

Runs of two machines, or of code that was changed since its commit, are refused unless --allow-mixed or --allow-dirty
says that it is meant.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from analysis import hardware, load
from analysis.checks import check_rows
from analysis.files import write_whole
from analysis.views import knobs_view, paired_view, steps_view, summary_view
from analysis.writer import FORMATS, Table, write
from svg.results import RecordError

TABLES = ("runs", "paired", "knobs", "steps")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs_dir", type=Path, help="folder of runs")
    parser.add_argument("--table", choices=TABLES, default="runs", help="which (default: %(default)s)")
    parser.add_argument("--quantity", default="psnr_db", help="of --table paired and knobs (default: %(default)s)")
    parser.add_argument("--reference", default="svg", help="method that --table paired compares with the others")
    parser.add_argument("--protocol", default="standard", help="of quality (default: %(default)s)")
    add_writing(parser)
    options = parser.parse_args(arguments)
    try:
        table = _table(options)
        hardware.check(table.runs, allow_mixed=options.allow_mixed, allow_dirty=options.allow_dirty)
        # Labels of two folders in one paper differ.
        place = re.sub(r"[^a-z0-9]+", "-", options.runs_dir.resolve().name.lower()).strip("-")
        named = replace(table, name=f"{table.name}-{place}") if options.format == "latex" else table
        put(write([named], options.format), options.output)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command that writes tables has."""
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument("--allow-mixed", action="store_true", help="take runs of several machines")
    parser.add_argument("--allow-dirty", action="store_true", help="take runs of code that differed from its commit")


def put(text: str, output: Path | None) -> None:
    """Write a text to a file, whole or not at all, or print it.

    Raises:
        RecordError: If the file cannot be written.
    """
    if output is None:
        print(text, end="", flush=True)
        return
    try:
        write_whole(output, text)
    except OSError as error:
        raise RecordError(f"--output {output} cannot be written: {error.strerror}") from error


def _table(options: argparse.Namespace) -> Table:
    measurements, runs = load.tables(options.runs_dir)
    check_rows(measurements, runs, options.protocol)
    if options.table == "paired":
        return paired_view(measurements, runs, options.quantity, options.reference, options.protocol)
    if options.table == "knobs":
        return knobs_view(measurements, runs, options.quantity, options.protocol)
    if options.table == "steps":
        return steps_view(measurements, runs)
    return summary_view(measurements, runs, options.protocol)


if __name__ == "__main__":
    sys.exit(main())
