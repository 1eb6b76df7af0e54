"""The mean of one quantity over prompts, with its 95 % interval, and why there is none where there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analysis.intervals import interval

# A place finer than a video; what is asked here is about whole videos.
_FINER = ("step", "layer", "head", "frame")
_NUMBERS = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Estimate:
    """One quantity over the videos (prompt times seed) of one row of a table.

    Args:
        mean: Mean over prompts of each one's mean over its seeds, of the values that are numbers; None where there is
            none.
        ci_low, ci_high: Ends of the 95 % interval of the mean over prompts (`analysis.intervals`); None for fewer than
            3 of them. Seeds of one prompt are more alike than videos of two, and would make it look surer than it is.
        low, high: Least and greatest value.
        prompts: How many prompts are in the mean.
        n: How many values are numbers.
        total: How many videos were asked about.
        infinite: How many were identical to their reference; they are in no mean.
        note: Why values, or frames of theirs, are missing, in words; empty where none is.
    """

    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    low: float | None = None
    high: float | None = None
    prompts: int = 0
    n: int = 0
    total: int = 0
    infinite: int = 0
    note: str = ""


class Value(NamedTuple):
    """One measurement of a whole video, or of a whole run where ``prompt_id`` is None."""

    run_id: str
    prompt_id: str | None
    seed: int | None
    protocol: str | None
    status: str
    value: float | None
    reason: str | None

    @property
    def number(self) -> float | None:
        """The value as a number; None where it is infinite, unavailable or failed."""
        return None if self.status != "ok" or self.value is None else float(self.value)


class Values:
    """The measurements of whole videos, found by run and quantity; those of frames, steps and heads are left out.

    Args:
        measurements: From `analysis.load.measurements`; rows of failed runs are left out, too.
    """

    def __init__(self, measurements: pd.DataFrame) -> None:
        is_whole = measurements[list(_FINER)].isna().all(axis=1) & (measurements["run_status"] == "complete")
        rows = measurements.loc[is_whole, ["quantity", *Value._fields]].astype(object)
        rows = rows.where(rows.notna(), None)
        self._values: dict[tuple[str, str], list[Value]] = {}
        self._videos: dict[str, set[tuple[str, int | None]]] = {}
        for quantity, *fields in rows.itertuples(index=False, name=None):
            value = Value(*fields)
            self._values.setdefault((value.run_id, quantity), []).append(value)
            if value.prompt_id is not None:
                self._videos.setdefault(value.run_id, set()).add((value.prompt_id, value.seed))

    def select(self, runs: Iterable[str], quantity: str, protocol: str | None) -> list[Value]:
        """Return the values of a quantity, of videos rather than of runs; in any protocol where that is None.

        A video (prompt and seed) that several of the runs made speaks once, through the last of them.
        """
        found = [value for run in runs for value in self._values.get((run, quantity), ())]
        if protocol is not None:
            # A quantity that has one definition only may leave it out.
            named = [value for value in found if value.protocol == protocol]
            found = named or [value for value in found if value.protocol is None]
        found = [value for value in found if value.prompt_id is not None] or found
        last = {(value.prompt_id, value.seed, value.protocol): value.run_id for value in found}
        return [value for value in found if last[value.prompt_id, value.seed, value.protocol] == value.run_id]

    def videos(self, runs: Iterable[str]) -> set[tuple[str, int | None]]:
        """Return (prompt, seed) of every video that was measured."""
        return {video for run in runs for video in self._videos.get(run, ())}


def estimate(values: Sequence[Value]) -> Estimate:
    """Return the mean of the values; an infinite, unavailable or failed one is counted, never averaged."""
    found = [(value.prompt_id, value.number) for value in values]
    numbers = [(prompt, number) for prompt, number in found if number is not None]
    infinite = sum(value.status == "infinite" for value in values)
    common: dict[str, Any] = {"total": len(values), "infinite": infinite, "note": _note(values, infinite)}
    if not numbers:
        return Estimate(**common)
    means = prompt_means(numbers)
    mean = math.fsum(means) / len(means)
    low, high = interval(means) or (None, None)
    every = [number for _, number in numbers]
    return Estimate(mean, low, high, min(every), max(every), len(means), len(every), **common)


def prompt_means(numbers: Iterable[tuple[Hashable, float]]) -> list[float]:
    """Return the mean of each prompt's numbers, given as (prompt, number), in the order of the prompts' first."""
    groups: dict[Hashable, list[float]] = {}
    for prompt, number in numbers:
        groups.setdefault(prompt, []).append(number)
    return [math.fsum(group) / len(group) for group in groups.values()]


def _note(values: Sequence[Value], infinite: int) -> str:
    total, notes = len(values), []
    if infinite:
        notes.append(f"∞ ({infinite} of {total} identical)")
    for status in ("unavailable", "failed"):
        reasons = [str(value.reason) for value in values if value.status == status]
        if reasons:
            share = "" if len(reasons) == total else f"{len(reasons)} of {total} "
            notes.append(f"{share}{status}: {_listed(reasons)}")
    partial = [value.reason for value in values if value.status == "ok" and value.reason]
    if partial:
        notes.append(f"{len(partial)} of {total}: {_listed(partial)}")
    return ", ".join(notes)


def _listed(reasons: Iterable[str]) -> str:
    """Return reasons one after the other; of those that differ in their numbers alone the first, and how many more."""
    alike: dict[str, list[str]] = {}
    for reason in dict.fromkeys(reasons):
        alike.setdefault(_NUMBERS.sub("", reason), []).append(reason)
    more = {first: f" ({len(others)} more with other numbers)" if others else "" for first, *others in alike.values()}
    return "; ".join(first + words for first, words in more.items())
