"""Sets published tables beside what was measured here: each value measured, published, and a verdict.

python -m analysis.reproduce                                 the tables that it knows
python -m analysis.reproduce TABLE --commands [--smoke]      the commands that fill one on a machine without GPU
python -m analysis.reproduce --commands --gpu                those that need one, of all tables
python -m analysis.reproduce TABLE --runs DIR ... [--compiled] [--format markdown|latex|csv]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import hardware, load
from analysis.beside import beside_table
from analysis.checks import check_rows
from analysis.published_tables import Published, names, read
from analysis.published_view import published_view
from analysis.record_rows import Rows
from analysis.reproduce_commands import commands
from analysis.tables import add_writing, put
from analysis.writer import Table, write
from svg.results import MEASUREMENT_SCHEMA, RecordError


def tables(published: Published, folders: list[Path], compiled: bool = False) -> list[Table]:
    """Return a published table and those beside it, filled from the runs below some folders.

    Args:
        published: The table.
        folders: Of runs.
        compiled: Whether times come from steps with compiled blocks, or from those without.

    Raises:
        RecordError: If a folder is missing or holds no run, none is complete, or rows cannot be told apart.
    """
    return tables_of(published, *load_runs(folders), compiled)


def tables_of(
    published: Published, runs: pd.DataFrame, measurements: pd.DataFrame, compiled: bool = False
) -> list[Table]:
    """Return what ``tables`` does, from runs and measurements that ``load_runs`` returned."""
    rows = Rows(measurements, runs, compiled)
    first = published_view(published, rows, runs)
    others = [beside_table(published, part, rows, runs) for part in published.beside]
    lacking = [part.title for part, table in zip(published.beside, others, strict=True) if table is None]
    notes = [f"{title}: no run is there yet; make reproduce-{published.name} makes them" for title in lacking]
    return [replace(first, notes=(*first.notes, *notes)), *(table for table in others if table is not None)]


def load_runs(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs and rows below all folders; of none, tables without a line.

    Raises:
        RecordError: If a folder is missing or holds no run, or two runs cannot be told apart.
    """
    places = [place for folder in folders for place in _places(folder)]
    if not places:
        runs = pd.DataFrame(columns=["run_id", "status", "created", "model", "method", "dense_backend", "prompts"])
        return runs, pd.DataFrame(columns=[*MEASUREMENT_SCHEMA.names, "run_status"])
    measurements, runs = load.tables(places[0])
    for place in places[1:]:
        # A run that lies in several folders counts once.
        rows, other = load.tables(place)
        new = ~other["run_id"].isin(runs["run_id"])
        rows = rows[rows["run_id"].isin(other.loc[new, "run_id"])]
        runs, measurements = (pd.concat(pair, ignore_index=True) for pair in ((runs, other[new]), (measurements, rows)))
    check_rows(measurements, runs)
    return runs, measurements


def _places(folder: Path) -> list[Path]:
    """Return the folders of runs at or below a folder."""
    if (folder / "run.json").is_file():
        raise RecordError(f"--runs {folder} is one run; give a folder that holds runs, such as {folder.parent}")
    found = {file.parent.parent for file in folder.rglob("run.json")}
    found = {place for place in found if not any(part.startswith(".") for part in place.relative_to(folder).parts)}
    if not found:
        raise RecordError(f"--runs {folder} holds no finished run; make some with `make reproduce-TABLE`")
    return sorted(found)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="which; without it, those that are known are listed")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR", help="folders of runs, at any depth")
    parser.add_argument("--commands", action="store_true", help="print the commands that fill it instead")
    parser.add_argument("--gpu", action="store_true", help="with --commands: those that need a GPU")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help="with --gpu: settings of timed steps")
    parser.add_argument("--compiled", action="store_true", help="times of compiled blocks (default: of eager ones)")
    parser.add_argument("--smoke", action="store_true", help="with --commands: at a size that only shows that they run")
    add_writing(parser)
    options = parser.parse_args(arguments)
    try:
        chosen = names() if options.table is None else [options.table]
        if options.commands:
            lines = (
                line
                for name in chosen
                for line in commands(read(name), on_gpu=options.gpu, smoke=options.smoke, step_settings=options.set)
            )
            put("".join(f"{line}\n" for line in dict.fromkeys(lines)), options.output)
        elif options.table is None:
            put("".join(f"reproduce-{name}: {read(name).title}\n" for name in chosen), options.output)
        else:
            made = tables(read(options.table), options.runs, options.compiled)
            for table in made:
                hardware.check(table.runs, allow_mixed=options.allow_mixed, allow_dirty=options.allow_dirty)
            put(write(made, options.format), options.output)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
