"""Measurements as long rows: one value, what it belongs to, how far to trust it, and their Parquet file."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from svg.results.record import MEASUREMENTS_FILE, RUN_FILE, SCHEMA_VERSION, RecordError, RunRecord

# One row is one value: (column, type, whether it may be null), in the order of the file.
_COLUMNS: tuple[tuple[str, pa.DataType, bool], ...] = (
    ("run_id", pa.string(), False),
    ("model", pa.string(), False),
    ("method", pa.string(), False),
    ("backend", pa.string(), False),
    ("dense_backend", pa.string(), False),
    ("prompt_id", pa.string(), True),
    ("seed", pa.int64(), True),
    ("step", pa.int32(), True),
    ("layer", pa.int32(), True),
    ("head", pa.int32(), True),
    ("branch", pa.string(), True),
    ("frame", pa.int32(), True),
    ("quantity", pa.string(), False),
    ("protocol", pa.string(), True),
    ("unit", pa.string(), False),
    ("value", pa.float64(), True),
    ("n", pa.int64(), False),
    ("spread", pa.float64(), True),
    ("higher_is_better", pa.bool_(), True),
    ("status", pa.string(), False),
    ("reason", pa.string(), True),
)
MEASUREMENT_SCHEMA = pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in _COLUMNS])
STATUSES = ("ok", "unavailable", "infinite", "skipped", "failed")
_RUN_COLUMNS = ("run_id", "model", "method", "backend", "dense_backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured value, or why there is none.

    Args:
        quantity: What was measured, in snake case with its unit where it has one: ``psnr_db``, ``generation_s``.
        unit: Unit of ``value`` and ``spread``; ``"1"`` for a pure number.
        value: The number, finite; None unless ``status`` is ``"ok"``.
        prompt_id, seed, step, layer, head, branch, frame: What the value belongs to; None where it does not apply.
            Indices count from 0.
        protocol: Which definition of the quantity, where there are several: ``"standard"``, ``"token"``.
        n: How many samples stand behind ``value``; 0 where nothing was measured.
        spread: Their standard deviation; None where unknown.
        higher_is_better: Which way is better; None where neither is.
        status: ``"ok"``; ``"infinite"`` (PSNR of identical frames); ``"unavailable"`` (this machine cannot measure
            it); ``"skipped"`` (a step cache left it out); ``"failed"``.
        reason: Why there is no value; needed where the status is neither ``"ok"`` nor ``"infinite"``.
        backend: What computed it, where that is not the run's sparse backend.

    Raises:
        ValueError: If the fields contradict one another.
    """

    quantity: str
    unit: str
    value: float | None
    prompt_id: str | None = None
    seed: int | None = None
    step: int | None = None
    layer: int | None = None
    head: int | None = None
    branch: str | None = None
    frame: int | None = None
    protocol: str | None = None
    n: int = 1
    spread: float | None = None
    higher_is_better: bool | None = None
    status: Literal["ok", "unavailable", "infinite", "skipped", "failed"] = "ok"
    reason: str | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        if not self.quantity or not self.unit:
            raise ValueError(f"a measurement needs a quantity and a unit, got {self.quantity!r} and {self.unit!r}")
        if self.status not in STATUSES:
            raise ValueError(f"{self.quantity}: status {self.status!r} is not one of {', '.join(STATUSES)}")
        if (self.value is not None) != (self.status == "ok"):
            raise ValueError(f"{self.quantity}: value {self.value} with status {self.status!r}; only ok has a value")
        if self.status not in ("ok", "infinite") and not self.reason:
            raise ValueError(f"{self.quantity}: status {self.status!r} needs a reason")
        for name in ("value", "spread"):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, Real) and math.isfinite(number)):
                raise ValueError(f"{self.quantity}: {name} is {number!r}; a record holds finite numbers only")
        if self.unit == "s" and self.value is not None and self.value < 0:
            raise ValueError(f"{self.quantity}: value is {self.value} s; a clock ran backwards")
        for name in ("seed", "step", "layer", "head", "frame", "n"):
            index, bits = getattr(self, name), 63 if name in ("seed", "n") else 31
            if not (index is None and name != "n") and not (isinstance(index, Integral) and abs(index) < 2**bits):
                raise ValueError(f"{self.quantity}: {name} is {index!r}; it must be a whole number below 2**{bits}")


def read_measurements(path: str | Path, sha256: str | None = None) -> pa.Table:
    """Return the rows of one run's folder, as a table of ``MEASUREMENT_SCHEMA``.

    Args:
        path: The folder.
        sha256: What the run's record states of their file; None: only the checksums of its pages are looked at.

    Raises:
        RecordError: If they are missing, damaged, not those of the record, or of another shape.
    """
    file, data = _read(path, sha256)
    try:
        # One thread: the interpreter may abort at its end where Arrow's threads still hold a Python object.
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from None
    if not table.schema.equals(MEASUREMENT_SCHEMA):
        raise RecordError(f"{file} has other columns than schema_version {SCHEMA_VERSION}")
    return table


def check_whole(path: str | Path, sha256: str | None) -> str:
    """Return the sha256 of the file of a run's rows, checked without decoding them.

    Args:
        path: The run's folder.
        sha256: What its record states; None, as in older ones: only that the file has its beginning and its end.

    Raises:
        RecordError: If it is missing, damaged, or not the record's.
    """
    file, data = _read(path, sha256)
    if sha256 is None:
        try:
            pq.read_metadata(pa.BufferReader(data))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(file, error) from None
    return sha256 or sha256_of(data)


def sha256_of(data: bytes) -> str:
    """Return the hash of a file of rows as a record states it: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _read(path: str | Path, sha256: str | None) -> tuple[str, bytes]:
    """Return name and content of a run's file of rows; it must have the hash, if one is stated."""
    file = os.path.join(path, MEASUREMENTS_FILE)
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise RecordError(f"{path} is half a run: it has no {MEASUREMENTS_FILE}") from None
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from None
    if sha256 is not None and sha256_of(data) != sha256:
        raise RecordError(f"{file} is damaged: its content does not have the hash that {RUN_FILE} states of it")
    return file, data


def _damaged(file: str, error: Exception) -> RecordError:
    return RecordError(f"{file} is damaged: {' '.join(str(error).split())}")


def to_parquet(record: RunRecord, rows: Sequence[Measurement]) -> bytes:
    """Return the Parquet file of a run's rows, with the run's own columns first."""
    shared = {name: [getattr(record, name)] * len(rows) for name in _RUN_COLUMNS}
    own = {name: [getattr(row, name) for row in rows] for name, _, _ in _COLUMNS if name not in _RUN_COLUMNS}
    own["backend"] = [row.backend or record.backend for row in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({**shared, **own}, schema=MEASUREMENT_SCHEMA), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue().to_pybytes()
