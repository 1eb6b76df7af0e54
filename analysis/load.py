"""Reads the records below a folder into two tables: a row a run, and a row a measurement."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from svg.results import Found, RecordError, find_all, read_all

_ORDER = ("run_id", "status", "error.type", "error.message", "created", "model", "method", "backend", "dense_backend")
# What a measurement row is told of its run; ``status`` is the measurement's own.
_RUN_COLUMNS = {"status": "run_status", "created": "created", "experiment": "experiment", "config_hash": "config_hash"}
_TYPES = {
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}


def runs(root: str | Path) -> pd.DataFrame:
    """Return a row a run below ``root``, by run id: complete, failed and damaged ones.

    Columns are the keys of ``run.json``, nested ones joined by dots (``config.method.sparsity``,
    ``provenance.cpu.name``, ``error.message``), and ``path``. Strings, whole numbers, fractions and booleans are
    pandas' nullable types, ``created`` is a time in UTC; lists (``overrides``, ``prompts``, ``seeds``, ``videos``)
    stay lists. A run whose files cannot be read is a row of status ``"damaged"`` with its error.

    Raises:
        RecordError: If ``root`` is missing or holds no run, or a run has another schema version.
    """
    rows = []
    for found in _some(root, find_all(root)):
        facts = found.facts
        if facts is None:
            error = {"type": "RecordError", "message": str(found.error)}
            facts = {"run_id": found.path.name, "status": "damaged", "error": error}
        rows.append({**_flat(facts), "path": str(found.path)})
    frame = pd.DataFrame(rows, dtype=object)
    # The first columns are there even if all null: a reader may ask for the errors of runs that went well.
    frame = frame.reindex(columns=[*dict.fromkeys([*_ORDER, *frame.columns])])
    # ``error`` and ``provenance.gpu`` are null in one run and several columns in another.
    nested = [name for name in frame if any(other.startswith(f"{name}.") for other in frame)]
    frame = frame.drop(columns=[name for name in nested if frame[name].isna().all()]).apply(_typed)
    frame["created"] = pd.to_datetime(frame["created"], utc=True, format="ISO8601")
    return frame


def measurements(root: str | Path) -> pd.DataFrame:
    """Return all measurement rows of the runs below ``root``, run by run.

    Columns are those of ``svg.results.MEASUREMENT_SCHEMA`` (``value`` and ``spread`` NaN where there is none, the
    rest pandas' nullable types), then ``run_status``, ``created``, ``experiment`` and ``config_hash`` of the run.
    A damaged run has no rows here; a warning names it.

    Raises:
        RecordError: If ``root`` is missing or holds no run, or a run has another schema version.
    """
    found, table = read_all(root)
    facts = []
    for run in _some(root, found):
        if run.facts is None:
            warnings.warn(f"left out: {run.error}", stacklevel=2)
            continue
        facts.append({"run_id": run.facts["run_id"], **{new: run.facts[old] for old, new in _RUN_COLUMNS.items()}})
    frame = table.to_pandas(types_mapper=_TYPES.get, use_threads=False)
    known = pd.DataFrame(facts, columns=["run_id", *_RUN_COLUMNS.values()], dtype="string")
    known["created"] = pd.to_datetime(known["created"], utc=True, format="ISO8601")
    return frame.merge(known, on="run_id", how="left", validate="many_to_one")


def tables(root: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `measurements` and `runs` for a command: damaged runs are named on standard error, a line each.

    Raises:
        RecordError: As those do.
    """
    known = runs(root)
    for message in known.loc[known["status"] == "damaged", "error.message"]:
        print(f"left out: {message}", file=sys.stderr)
    with warnings.catch_warnings():
        # It says again which runs are damaged.
        warnings.filterwarnings("ignore", message="left out: ")
        return measurements(root), known


def _some(root: str | Path, found: list[Found]) -> list[Found]:
    if not found:
        raise RecordError(f"runs_dir={root} holds no finished run; make some with `python -m experiments.compare`")
    return found


def _typed(column: pd.Series) -> pd.Series:
    """A column of plain values as the nullable type of all of them; anything else as it is."""
    kinds = set(map(type, column.dropna()))
    for allowed, dtype in (({str}, "string"), ({bool}, "boolean"), ({int}, "Int64"), ({int, float}, "Float64")):
        if kinds <= allowed:
            return column.astype(dtype)
    return column


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
