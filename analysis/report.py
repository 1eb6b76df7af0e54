"""Prints the table of the runs in a folder and writes their report, one HTML file that needs no network.

    python -m analysis.report RUNS_DIR [--output FILE] [--max-mb 25]

The last line printed is the path of the report.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
from html import escape
from importlib import resources
from pathlib import Path

import pandas as pd

from analysis import load, markup
from analysis.checks import check_finite
from analysis.colors import Colors
from analysis.files import write_whole
from analysis.paired_markup import paired_table
from analysis.payload import embed, payload, protocols
from analysis.record_rows import makes_no_videos
from analysis.run_markup import run_details
from analysis.settings import counted, listed
from analysis.summary import full_labels, quality_columns, summary
from analysis.table import print_summary
from svg.results import RecordError

_SCRIPTS = ("common.js", "filters.js", "player.js", "charts.js", "chosen.js", "heads.js")
# A heading names so many models, and counts more.
_NAMED = 3
_SECTIONS = {
    "table": "Table",
    "paired": "Differences",
    "charts": "Charts",
    "videos": "Videos",
    "heads": "Heads",
    "time": "Time",
    "runs": "Runs",
}


def render(measurements: pd.DataFrame, runs: pd.DataFrame, max_mb: float = 25) -> str:
    """Return the report as one HTML text.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        max_mb: The file's size in megabytes; videos that would exceed it are left out, and named.
    """
    places = {run_id: place for place, run_id in enumerate(runs["run_id"])}
    found = protocols(measurements)
    tables = {name: summary(measurements, runs, protocol=name) for name in found}
    table = tables[found[0]]
    colors = Colors(table)
    content = payload(measurements, runs, colors)
    scripts = "\n".join(_template(name) for name in _SCRIPTS)
    models = runs["model"].dropna().unique()
    named = listed(models) if len(models) <= _NAMED else counted(len(models), "model")
    parts = {"title": f"{named}: sparse against dense", "heading": f"{named}, sparse against dense"}
    parts = {name: escape(text) for name, text in parts.items()} | {
        "lead": markup.lead(runs, table),
        "facts": markup.facts(runs),
        "nav": markup.links(_SECTIONS.items()),
        "table": "".join(
            (f"<h3>Protocol {escape(name)}</h3>" if len(found) > 1 else "")
            + markup.summary_table(rows, colors, places, name)
            for name, rows in tables.items()
        ),
        "paired": paired_table(measurements, runs, quality_columns(table), found[0], colors, places),
        "time": markup.time_bars(measurements, runs, table, places),
        "runs": run_details(runs, _labels(table), places),
        "footer": "Made by analysis.report from the records beside it.",
        "css": _template("report.css"),
        "js": scripts,
        # A script that is not ours does not run, wherever it might have come from.
        "js_hash": base64.b64encode(hashlib.sha256(scripts.encode()).digest()).decode(),
    }
    rest = sum(len(text.encode()) for text in (*parts.values(), _script_json(content)))
    folders = dict(zip(runs["run_id"], runs["path"], strict=True))
    # Some room for the names of the videos and of those left out.
    left_out = embed(content, folders, int(max_mb * 1e6) - rest - 20_000)
    parts |= {"left_out": markup.left_out_text(left_out, max_mb), "data": _script_json(content)}
    # In one pass: a prompt may hold what looks like a slot.
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _template("report.html"))


def write_report(runs_dir: str | Path, output: str | Path | None = None, max_mb: float = 25) -> Path:
    """Write the report of the runs below ``runs_dir`` and print their table.

    Args:
        runs_dir: A folder of records.
        output: Where to write; ``report.html`` in ``runs_dir`` by default.
        max_mb: See `render`.

    Returns:
        The path of the report.

    Raises:
        RecordError: If there is no run, a run is damaged or has a value that is no finite number, or the report cannot
            be written.
    """
    runs = load.runs(runs_dir)
    # What a machine reaches stands beside the runs that it is the floor of, and is the run of no method.
    runs = runs[runs["method"].fillna("") != "rates"]
    if runs.empty:
        raise RecordError(f"runs_dir={runs_dir} holds no run of a method, only rates of its machine")
    # Timed steps and the like have other settings and no videos: beside runs that have some they would be empty rows.
    others = makes_no_videos(runs)
    if others.any() and not others.all():
        print(f"left out of the report: {counted(int(others.sum()), 'run')} of commands that make no videos")
        runs = runs[~others]
    damaged = runs[runs["status"] == "damaged"]
    if len(damaged):
        raise RecordError(f"{damaged['error.message'].iloc[0]}; delete {damaged['path'].iloc[0]} or make the run again")
    measurements = load.measurements(runs_dir)
    measurements = measurements[measurements["run_id"].isin(runs["run_id"])]
    check_finite(measurements)
    target = Path(output) if output is not None else Path(runs_dir) / "report.html"
    try:
        write_whole(target, render(measurements, runs, max_mb))
    except OSError as error:
        raise RecordError(f"--output {target} cannot be written: {error.strerror}") from error
    shown, *more = protocols(measurements)
    print_summary(summary(measurements, runs, protocol=shown), runs)
    if more or shown != "standard":
        print(f"Quality here is in protocol {shown}" + (f"; the report has {listed(more)}, too." if more else "."))
    return target


def _labels(table: pd.DataFrame) -> dict[str, str]:
    """What every run is called in a summary, by its id, in the summary's order."""
    return {run: label for label, ids in zip(full_labels(table), table["runs"], strict=True) for run in ids}


def _template(name: str) -> str:
    return resources.files("analysis").joinpath("templates", name).read_text(encoding="utf-8")


def _script_json(value: object) -> str:
    """JSON that may stand in a script element, whatever a prompt says."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Table and HTML report of runs.")
    parser.add_argument("runs_dir", metavar="RUNS_DIR", help="folder of the records")
    parser.add_argument("--output", metavar="FILE", help="the report; RUNS_DIR/report.html by default")
    parser.add_argument("--max-mb", type=float, default=25, metavar="MB", help="greatest size of the report (25)")
    options = parser.parse_args(arguments)
    try:
        if not options.max_mb > 0:
            raise RecordError(f"--max-mb is {options.max_mb:g}; it must be above 0")
        path = write_report(options.runs_dir, options.output, options.max_mb)
        print(f"\n{path}", flush=True)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the table has read enough; the interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
