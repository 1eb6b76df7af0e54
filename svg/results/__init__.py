"""The records of runs: one folder a run, with its facts, measurements and videos, written whole or not at all."""

from svg.results.index import Found, find_all, read_all
from svg.results.record import (
    SCHEMA_VERSION,
    RecordError,
    RunBusy,
    RunExists,
    RunRecord,
    RunSchemaError,
    Video,
    canonical_json,
    config_hash,
    list_runs,
    read_run,
)
from svg.results.rows import MEASUREMENT_SCHEMA, Measurement, check_whole, read_measurements
from svg.results.writer import RunWriter, VideoPaths, lock_path

__all__ = [
    "MEASUREMENT_SCHEMA",
    "SCHEMA_VERSION",
    "Found",
    "Measurement",
    "RecordError",
    "RunBusy",
    "RunExists",
    "RunRecord",
    "RunSchemaError",
    "RunWriter",
    "Video",
    "VideoPaths",
    "canonical_json",
    "check_whole",
    "config_hash",
    "find_all",
    "list_runs",
    "lock_path",
    "read_all",
    "read_measurements",
    "read_run",
]
