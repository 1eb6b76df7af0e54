"""Reads all records of a folder; of many it keeps a copy, which may be deleted at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from svg.results import cache
from svg.results.record import MEASUREMENTS_FILE, RUN_FILE, RecordError, RunSchemaError, list_runs, read_facts
from svg.results.rows import MEASUREMENT_SCHEMA, check_whole, read_measurements

# Fewer runs than so many are read one by one, which is fast enough.
INDEX_FROM = 500


@dataclass(frozen=True)
class Found:
    """One run's folder: its facts as ``run.json`` holds them, or why they or its rows cannot be read.

    Args:
        rows: The sha256 of the file of its rows; None where the run cannot be read.
    """

    path: Path
    facts: Mapping[str, Any] | None
    error: RecordError | None = None
    rows: str | None = None


def find_all(runs_dir: str | Path) -> list[Found]:
    """Return all runs of a folder by name, what their files hold checked but their rows not decoded.

    Taken from the copy are the facts of a run whose two files have the size, the time and the place on the disk that
    they had when they were checked. Of all others ``run.json`` must have its own hash, and the rows' file the one that
    ``run.json`` states; the rows of an older record, which states none, are decoded, and so their pages' checksums.

    Raises:
        RecordError: If the folder cannot be read, or a run was written under another schema version.
    """
    root, paths = Path(runs_dir), list_runs(runs_dir)
    is_many = len(paths) >= INDEX_FROM
    known = cache.load_facts(root) if is_many else {}
    found: list[Found] = []
    entries: list[cache.Entry] = []
    for path in paths:
        state, entry = _state(path), known.get(path.name)
        if entry is not None and entry.state == state:
            facts: Mapping[str, Any] = json.loads(entry.json)
        else:
            try:
                facts, rows = _checked(path)
            except RunSchemaError:
                raise
            except RecordError as error:
                found.append(Found(path, None, error))
                continue
            entry = cache.Entry(path.name, state, json.dumps(facts), rows)
        found.append(Found(path, facts, rows=entry.rows))
        entries.append(entry)
    if is_many and entries != list(known.values()):
        cache.save_facts(root, entries)
    return found


def read_all(runs_dir: str | Path) -> tuple[list[Found], pa.Table]:
    """Return all runs of a folder by name, and the rows of those that can be read, as ``MEASUREMENT_SCHEMA``.

    The copy holds rows under the hash of their file, as ``find_all`` has found it: they are decoded once.

    Raises:
        RecordError: As ``find_all`` does.
    """
    root, found = Path(runs_dir), find_all(runs_dir)
    is_many = len(found) >= INDEX_FROM
    known, copy = cache.load_rows(root) if is_many else ({}, MEASUREMENT_SCHEMA.empty_table())
    if [run.rows for run in found if run.facts is not None] == list(known):
        return found, copy
    pieces: dict[str, pa.Table] = {}
    for place, run in enumerate(found):
        if run.rows is None or run.rows in pieces:
            continue
        try:
            is_known = run.rows in known
            pieces[run.rows] = copy.slice(*known[run.rows]) if is_known else read_measurements(run.path, run.rows)
        except RecordError as error:
            found[place] = Found(run.path, None, error)
    table = pa.concat_tables([MEASUREMENT_SCHEMA.empty_table(), *pieces.values()]).combine_chunks()
    if is_many:
        cache.save_rows(root, {key: rows.num_rows for key, rows in pieces.items()}, table)
    return found, table


def _checked(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a run's ``run.json`` holds and the hash of the file of its rows, both read and checked."""
    facts = read_facts(path)
    stated = facts["measurements_sha256"]
    if stated is None:
        read_measurements(path)
    return facts, check_whole(path, stated)


def _state(path: Path) -> str:
    """Return what changes when a run's files do; another text where one is missing."""
    texts = []
    for name in (RUN_FILE, MEASUREMENTS_FILE):
        try:
            state = os.stat(f"{path}/{name}")
            texts.append(f"{state.st_mtime_ns}/{state.st_size}/{state.st_ino}")
        except OSError:
            texts.append("none")
    return " ".join(texts)
