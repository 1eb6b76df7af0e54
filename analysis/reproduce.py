"""Sets published tables beside what was measured here: each value measured, published, and a verdict.

python -m analysis.reproduce                                 the tables that it knows
python -m analysis.reproduce TABLE --commands [--smoke]      the commands that fill one on a machine without GPU
python -m analysis.reproduce --commands --gpu                those that need one, of all tables
python -m analysis.reproduce TABLE --runs DIR ... [--committed DIR ...] [--compiled] [--format markdown|latex|csv]

Times in a published table are of one machine: of that of --runs, if these fill a value, else of that which fills most.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import hardware, load
from analysis.beside import beside_table
from analysis.checks import check_rows
from analysis.hardware import column
from analysis.measures import measure
from analysis.published_tables import Published, names, read
from analysis.published_view import published_view
from analysis.record_rows import Rows
from analysis.reproduce_commands import commands
from analysis.tables import add_writing, put
from analysis.writer import Table, write
from svg.results import MEASUREMENT_SCHEMA, RecordError

_SMOKE = "smoke size: shows only that it runs"


def tables(
    published: Published,
    folders: list[Path],
    compiled: bool = False,
    committed: Sequence[Path] = (),
    mixed: bool = False,
) -> list[Table]:
    """Return a published table and those beside it, filled from the runs below some folders.

    Args:
        published: The table.
        folders: Of runs that are one's own.
        compiled: Whether times come from steps with compiled blocks, or from those without.
        committed: Of other runs, whose machine counts where one's own fill no value.
        mixed: Whether times of several machines may stand in one table.

    Raises:
        RecordError: If a folder is missing or holds no run, none is complete, or rows cannot be told apart.
    """
    runs, measurements = load_runs([*folders, *committed])
    own = [str(run) for run, path in zip(runs["run_id"], column(runs, "path"), strict=True) if _is_below(path, folders)]
    return tables_of(published, runs, measurements, compiled, own, mixed)


def tables_of(
    published: Published,
    runs: pd.DataFrame,
    measurements: pd.DataFrame,
    compiled: bool = False,
    own: Collection[str] = (),
    mixed: bool = False,
) -> list[Table]:
    """Return what ``tables`` does, from runs and measurements that ``load_runs`` returned."""
    rows = Rows(measurements, runs, compiled)
    rows, left_out = (rows, []) if mixed else _of_one_machine(published, rows, own)
    first = published_view(published, rows, runs)
    others = [beside_table(published, part, rows, runs) for part in published.beside]
    lacking = [part.title for part, table in zip(published.beside, others, strict=True) if table is None]
    notes = [f"Left out, for numbers of two machines do not compare: times of {name}" for name in left_out]
    notes += [f"{title}: no run is there yet; make reproduce-{published.name} makes them" for title in lacking]
    return [replace(first, notes=(*first.notes, *notes)), *(table for table in others if table is not None)]


def _of_one_machine(published: Published, rows: Rows, own: Collection[str]) -> tuple[Rows, list[str]]:
    """Return the rows with the times of one machine, and the machines whose times would fill values, too."""
    filled = {}
    for name, ids in rows.timed.items():
        used = [set(measure(rows.on(name), cell).runs) & set(ids) for cell in published.cells]
        # That of own runs first, then that of most values.
        filled[name] = any(runs.intersection(own) for runs in used), sum(map(bool, used))
    if not filled:
        return rows, []
    chosen = max(filled, key=filled.__getitem__)
    return rows.on(chosen), [name for name, (_, count) in filled.items() if count and name != chosen]


def _is_below(path: str, folders: Iterable[Path]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


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
    try:
        is_run = (folder / "run.json").is_file()
        found = {file.parent.parent for file in folder.rglob("run.json")}
    except OSError as error:
        raise RecordError(f"--runs {folder} cannot be read: {error.strerror}") from error
    if is_run:
        raise RecordError(f"--runs {folder} is one run; give a folder that holds runs, such as {folder.parent}")
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
    parser.add_argument(
        "--committed", type=Path, nargs="*", default=[], metavar="DIR", help="likewise, of others' runs"
    )
    parser.add_argument("--commands", action="store_true", help="print the commands that fill it instead")
    parser.add_argument("--gpu", action="store_true", help="with --commands: those that need a GPU")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help="with --gpu: settings of timed steps")
    parser.add_argument("--compiled", action="store_true", help="times of compiled blocks (default: of eager ones)")
    parser.add_argument("--smoke", action="store_true", help="at a size that only shows that they run")
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
            made = tables(read(options.table), options.runs, options.compiled, options.committed, options.allow_mixed)
            for table in made:
                hardware.check(table.runs, allow_mixed=options.allow_mixed, allow_dirty=options.allow_dirty)
            if options.smoke:
                made = [replace(table, name=f"smoke-{table.name}", title=f"{_SMOKE}. {table.title}") for table in made]
            opening = {"markdown": f"{_SMOKE}\n\n", "latex": f"% {_SMOKE}\n", "csv": ""}[options.format]
            put(opening * options.smoke + write(made, options.format), options.output)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
