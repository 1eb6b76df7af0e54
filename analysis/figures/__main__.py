"""Draws every figure that the rows of a folder allow, and says of the others what is missing.

    python -m analysis.figures RUNS_DIR --output DIR [--figure NAME ...] [--quantity psnr_db] [--protocol standard]

A line for each figure: its files, or what is missing and the experiment that makes it. The exit status is 0 if at least
one was drawn and none could not be written, else 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import load
from analysis.figures.catalogue import FIGURES, Records
from analysis.figures.series import MissingRows
from analysis.summary import QUALITY
from svg.results import RecordError


def draw(name: str, records: Records, output: Path) -> tuple[list[str], list[str]]:
    """Draw a figure of the catalogue; return a line for each that was drawn, and for each that was not."""
    drawn, missing = [], []
    try:
        jobs = FIGURES[name](records)
    except MissingRows as error:
        return [], [f"{name}: {error}"]
    for stem, job in jobs.items():
        try:
            drawn.append(" ".join(map(str, job(output / stem))))
        except ValueError as error:
            missing.append(f"{stem}: {error}")
    return drawn, missing


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures", description="Every figure that the rows of a folder allow."
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", type=Path, help="folder of the records")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--figure", metavar="NAME", nargs="+", action="extend", help=f"{', '.join(FIGURES)}; all")
    parser.add_argument("--quantity", default="psnr_db", help=f"{', '.join(QUALITY)} (%(default)s)")
    parser.add_argument("--protocol", default="standard", help="of the quality (%(default)s)")
    options = parser.parse_args(arguments)
    drawn: list[str] = []
    try:
        for setting, values, allowed in (
            ("--figure", options.figure or [], FIGURES),
            ("--quantity", [options.quantity], QUALITY),
        ):
            if wrong := [value for value in values if value not in allowed]:
                raise RecordError(f"{setting} is {wrong[0]}; it must be one of {', '.join(allowed)}")
        records = Records(*load.tables(options.runs_dir), options.quantity, options.protocol)
        for name in options.figure or FIGURES:
            lines, missing = draw(name, records, options.output)
            print("\n".join([*lines, *(f"not drawn: {line}" for line in missing)]), flush=True)
            drawn += lines
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --output {options.output} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0 if drawn else 2


if __name__ == "__main__":
    sys.exit(main())
