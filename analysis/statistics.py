"""The mean of one quantity over videos, with its 95 % interval, and why there is none where there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

# A place finer than a video; what is asked here is about whole videos.
_FINER = ("step", "layer", "head", "frame")


@dataclass(frozen=True)
class Estimate:
    """One quantity over the videos (prompt times seed) of one row of a table.

    Args:
        mean: Mean of the values that are numbers; None where there is none.
        half_width: Half of the 95 % interval of the mean, Student's t over videos; None for fewer than 3 values.
        low, high: Least and greatest value.
        n: How many values are numbers.
        total: How many videos were asked about.
        infinite: How many were identical to their reference; they are in no mean.
        note: Why values are missing, in words; empty where none is.
    """

    mean: float | None = None
    half_width: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    total: int = 0
    infinite: int = 0
    note: str = ""


def select(measurements: pd.DataFrame, quantity: str, protocol: str | None) -> pd.DataFrame:
    """Return the rows of a quantity that speak of whole videos; of whole runs where no row speaks of a video."""
    rows = measurements[(measurements["quantity"] == quantity) & measurements[list(_FINER)].isna().all(axis=1)]
    if protocol is not None:
        # A quantity that has one definition only may leave it out.
        named = rows["protocol"] == protocol
        rows = rows[named if named.any() else rows["protocol"].isna()]
    of_videos = rows[rows["prompt_id"].notna()]
    return of_videos if len(of_videos) else rows


def estimate(rows: pd.DataFrame) -> Estimate:
    """Return the mean of the rows' values; an infinite, unavailable or failed one is counted, never averaged."""
    values = rows.loc[rows["status"] == "ok", "value"].astype(float).tolist()
    infinite = int((rows["status"] == "infinite").sum())
    common: dict[str, Any] = {"total": len(rows), "infinite": infinite, "note": _note(rows, len(values), infinite)}
    if not values:
        return Estimate(**common)
    mean = math.fsum(values) / len(values)
    return Estimate(mean, half_width(values), min(values), max(values), len(values), **common)


def half_width(values: list[float]) -> float | None:
    """Return half of the 95 % interval of the mean (Student's t); None for fewer than 3 values."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 3:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def _note(rows: pd.DataFrame, numbers: int, infinite: int) -> str:
    total, notes = len(rows), []
    if infinite:
        notes.append(f"∞ ({infinite} of {total} identical)")
    for status in ("unavailable", "failed"):
        reasons = rows.loc[rows["status"] == status, "reason"].dropna()
        count = int((rows["status"] == status).sum())
        if count:
            share = "" if count == total else f"{count} of {total} "
            notes.append(f"{share}{status}: {'; '.join(dict.fromkeys(reasons))}")
    return ", ".join(notes)
