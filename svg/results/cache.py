"""The copy of many records in two files: their facts, and all their rows behind one another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from svg.results.rows import MEASUREMENT_SCHEMA

# Below the folder of runs.
FOLDER = ".index"
_FACTS, _ROWS = "facts.parquet", "rows.parquet"


class Entry(NamedTuple):
    """What is kept of a run's facts: its folder's name, what its files looked like, ``run.json``, its rows' hash."""

    name: str
    state: str
    json: str
    rows: str


# Of another layout of the copy is another version, so that an old one is not taken.
_FACTS_SCHEMA = pa.schema([(name, pa.string()) for name in Entry._fields], {"version": "2"})
# In the metadata of the rows: their files' hashes and how many each holds, in order.
_COUNTS = b"counts"


def load_facts(root: Path) -> dict[str, Entry]:
    """Return the copied facts of a folder's runs by name; none where there is no copy that can be taken."""
    table = _load(root, _FACTS)
    if table is None or not table.schema.equals(_FACTS_SCHEMA, check_metadata=True):
        return {}
    columns = (table[name].to_pylist() for name in Entry._fields)
    return {entry.name: entry for entry in map(Entry, *columns)}


def save_facts(root: Path, entries: Iterable[Entry]) -> None:
    """Replace the copy of the facts."""
    rows = [entry._asdict() for entry in entries]
    _save(root, _FACTS, pa.Table.from_pylist(rows, schema=_FACTS_SCHEMA))


def load_rows(root: Path) -> tuple[dict[str, tuple[int, int]], pa.Table]:
    """Return where each file's rows lie in the copy, as (first, number) by its hash, and the copy; else nothing."""
    table = _load(root, _ROWS)
    metadata = (table.schema.metadata or {}) if table is not None else {}
    if table is None or _COUNTS not in metadata or not table.schema.equals(MEASUREMENT_SCHEMA):
        return {}, MEASUREMENT_SCHEMA.empty_table()
    counts: dict[str, int] = json.loads(metadata[_COUNTS])
    places, first = {}, 0
    for key, count in counts.items():
        places[key] = (first, count)
        first += count
    if first != table.num_rows:
        return {}, MEASUREMENT_SCHEMA.empty_table()
    return places, table.replace_schema_metadata(None)


def save_rows(root: Path, counts: Mapping[str, int], rows: pa.Table) -> None:
    """Replace the copy of the rows.

    Args:
        root: The folder of runs.
        counts: By the hash of a file how many rows it holds, in their order.
        rows: All of them.
    """
    _save(root, _ROWS, rows.replace_schema_metadata({_COUNTS: json.dumps(counts)}))


def _load(root: Path, name: str) -> pa.Table | None:
    try:
        data = pa.BufferReader((root / FOLDER / name).read_bytes())
        return pq.ParquetFile(data, page_checksum_verification=True).read(use_threads=False)
    except (OSError, pa.ArrowException):
        return None


def _save(root: Path, name: str, table: pa.Table) -> None:
    # A copy that the disk does not take is only slower next time.
    with suppress(OSError):
        (root / FOLDER).mkdir(exist_ok=True)
        unfinished = root / FOLDER / f".{name}-{os.getpid()}"
        pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
        os.replace(unfinished, root / FOLDER / name)
