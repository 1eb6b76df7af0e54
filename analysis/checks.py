"""Whether rows may become a table: a run is complete, numbers are numbers, and quality has one protocol."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.summary import QUALITY
from svg.results import RecordError


def check_rows(measurements: pd.DataFrame, runs: pd.DataFrame, protocol: str = "standard") -> None:
    """Raise ``RecordError`` naming a run whose rows cannot stand in a table.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        protocol: Of the quality quantities.
    """
    check_complete(runs)
    whole = set(runs.loc[runs["status"] == "complete", "run_id"])
    rows = measurements[measurements["run_id"].isin(whole)]
    check_finite(rows)
    quality = rows[rows["quantity"].isin(QUALITY) & rows["frame"].isna() & rows["protocol"].notna()]
    for (run, quantity), protocols in quality.groupby(["run_id", "quantity"], sort=False)["protocol"]:
        if protocol not in set(protocols):
            found = ", ".join(sorted(set(protocols)))
            raise RecordError(
                f"run {run} has {quantity} in protocol {found} only, and the table is of {protocol}; leave the run "
                f"out, measure it again, or pass --protocol {protocols.iloc[0]}"
            )


def check_complete(runs: pd.DataFrame) -> None:
    """Raise ``RecordError`` naming the last run if none is complete."""
    if not (runs["status"] == "complete").any():
        last = runs.sort_values("created", kind="stable").iloc[-1]
        raise RecordError(f"no run is complete; {last['run_id']} is {last['status']}: {last['error.message']}")


def check_finite(measurements: pd.DataFrame) -> None:
    """Raise ``RecordError`` naming a run that has a value which is no finite number, though it states that it is."""
    lost = measurements[(measurements["status"] == "ok") & ~np.isfinite(measurements["value"].astype(float))]
    if len(lost):
        row = lost.iloc[0]
        raise RecordError(f"run {row['run_id']} has {row['quantity']} {row['value']}; a value must be finite")
