"""Reads all records of a folder; from many it keeps a copy in two files, which may be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svg.results.record import MEASUREMENTS_FILE, RUN_FILE, RecordError, RunSchemaError, list_runs, read_run
from svg.results.rows import MEASUREMENT_SCHEMA, read_measurements

# Below the folder of runs; fewer runs than so many are read one by one, which is fast enough.
INDEX, INDEX_FROM = ".index", 500
_FACTS, _ROWS = "facts.parquet", "rows.parquet"
# Of another layout of the copy, so that an old one is no longer taken.
_VERSION = "1"
# Name of the folder, state of its files when they were read, run.json, the copy's first row of it and their number.
_FACTS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("state", pa.string()),
        ("json", pa.string()),
        ("first", pa.int64()),
        ("count", pa.int64()),
    ],
    {"version": _VERSION},
)


@dataclass(frozen=True)
class Found:
    """One run's folder: its facts as ``run.json`` holds them, or why they or its rows cannot be read."""

    path: Path
    facts: Mapping[str, Any] | None
    error: RecordError | None = None


def read_all(runs_dir: str | Path) -> tuple[list[Found], pa.Table]:
    """Return all runs of a folder by name, and the rows of those that can be read, as ``MEASUREMENT_SCHEMA``.

    What has changed since the copy was made is read anew, and the copy replaced where the disk lets it.

    Raises:
        RecordError: If the folder cannot be read, or a run was written under another schema version.
    """
    root, paths = Path(runs_dir), list_runs(runs_dir)
    states = {path.name: _state(path) for path in paths}
    old, old_rows = _load(root) if len(paths) >= INDEX_FROM else ({}, MEASUREMENT_SCHEMA.empty_table())
    found: list[Found] = []
    entries: list[dict[str, Any]] = []
    pieces: list[pa.Table] = []
    is_new = len(old) != len(paths)
    total = 0
    for path in paths:
        entry = old.get(path.name)
        if entry is not None and entry["state"] == states[path.name]:
            # Neighbours in the copy are taken together below.
            rows: pa.Table | None = None
            facts, count = json.loads(entry["json"]), entry["count"]
        else:
            is_new = True
            try:
                facts, rows = asdict(read_run(path)), read_measurements(path)
            except RunSchemaError:
                raise
            except RecordError as error:
                found.append(Found(path, None, error))
                continue
            count = rows.num_rows
        found.append(Found(path, facts))
        text = entry["json"] if rows is None and entry is not None else json.dumps(facts)
        entries.append({"name": path.name, "state": states[path.name], "json": text, "first": total, "count": count})
        pieces.append(old_rows.slice(entry["first"], count) if rows is None and entry is not None else rows)
        total += count
    if not is_new:
        return found, old_rows
    table = pa.concat_tables([MEASUREMENT_SCHEMA.empty_table(), *pieces]).combine_chunks()
    if len(paths) >= INDEX_FROM:
        _save(root, entries, table)
    return found, table


def _state(path: Path) -> str:
    """Return what changes when a run's files do; another text where one is missing."""
    texts = []
    for name in (RUN_FILE, MEASUREMENTS_FILE):
        try:
            state = os.stat(path / name)
            texts.append(f"{state.st_mtime_ns}/{state.st_size}/{state.st_ino}")
        except OSError:
            texts.append("none")
    return " ".join(texts)


def _load(root: Path) -> tuple[dict[str, dict[str, Any]], pa.Table]:
    """Return the copy's runs by name and its rows; nothing where there is no copy that can be taken."""
    nothing: tuple[dict[str, dict[str, Any]], pa.Table] = ({}, MEASUREMENT_SCHEMA.empty_table())
    try:
        facts, rows = (_read(root / INDEX / name) for name in (_FACTS, _ROWS))
    except (OSError, pa.ArrowException):
        return nothing
    if not facts.schema.equals(_FACTS_SCHEMA, check_metadata=True) or not rows.schema.equals(MEASUREMENT_SCHEMA):
        return nothing
    entries = facts.to_pylist()
    # The two files are replaced one after the other: a reader between the two has no pair.
    if sum(entry["count"] for entry in entries) != rows.num_rows or rows.schema.metadata != {b"facts": _mark(facts)}:
        return nothing
    return {entry["name"]: entry for entry in entries}, rows.replace_schema_metadata(None)


def _read(file: Path) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(file.read_bytes()), page_checksum_verification=True).read(use_threads=False)


def _mark(facts: pa.Table) -> bytes:
    """Return what tells which facts some rows belong to."""
    return hashlib.sha256("\0".join(facts["state"].to_pylist()).encode()).hexdigest().encode()


def _save(root: Path, entries: list[dict[str, Any]], rows: pa.Table) -> None:
    facts = pa.Table.from_pylist(entries, schema=_FACTS_SCHEMA)
    marked = rows.replace_schema_metadata({"facts": _mark(facts)})
    # A copy that the disk does not take is only slower next time.
    with suppress(OSError):
        (root / INDEX).mkdir(exist_ok=True)
        for name, table in ((_ROWS, marked), (_FACTS, facts)):
            unfinished = root / INDEX / f".{name}-{os.getpid()}"
            pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
            os.replace(unfinished, root / INDEX / name)
