"""What each knob of a sweep is worth: one quality from a knob's first value to its last, all else equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.intervals import interval
from analysis.pairing import Setting, settings
from analysis.settings import as_text, knob_text
from analysis.statistics import prompt_means

COLUMNS = ["model", "method", "knob", "first", "last", "others", "prompts", "difference", "low", "high"]


def knob_effects(
    measurements: pd.DataFrame, runs: pd.DataFrame, quantity: str = "psnr_db", protocol: str = "standard"
) -> pd.DataFrame:
    """Return by how much a quantity changes as one knob goes from its least value to its greatest.

    Settings of one model and method are compared where every other knob, the machine, the versions and the code are the
    same; videos are paired by prompt and seed, and the differences of a prompt averaged over its seeds. Values that
    are no numbers are in the order of their text.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        quantity: What is compared; differences have its unit.
        protocol: Of the quantity.

    Returns:
        A row per knob and combination of the others, the greatest difference first: ``model``, ``method``, ``knob``,
        ``first`` and ``last`` (its values), ``others`` (the other knobs, as text), ``prompts``, ``difference`` (at the
        last value less at the first, mean over prompts), ``low`` and ``high`` (its 95 % interval; missing below 3
        prompts). No row where no two settings differ in one knob alone.
    """
    groups: dict[tuple[str, ...], list[tuple[Any, Setting]]] = {}
    for setting in settings(measurements, runs, quantity, protocol):
        for knob, value in setting.knobs.items():
            others = {name: other for name, other in setting.knobs.items() if name != knob}
            key = (setting.model, setting.method, setting.environment, knob, knob_text(others))
            groups.setdefault(key, []).append((value, setting))
    rows = [row for key, found in groups.items() for row in _row(key, found)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("difference", "low", "high"), float))
    return table.sort_values("difference", key=abs, ascending=False, ignore_index=True)


def _row(key: tuple[str, ...], found: list[tuple[Any, Setting]]) -> Iterator[dict[str, Any]]:
    """Yield the row of one knob; none where it has one value, or no video has a number at both ends."""
    model, method, _, knob, others = key
    is_number = all(isinstance(value, int | float) for value, _ in found)
    (first, low_end), (last, high_end) = (
        end(found, key=lambda pair: pair[0] if is_number else as_text(pair[0])) for end in (min, max)
    )
    pairs = [(prompt, value, high_end.videos.get((prompt, seed))) for (prompt, seed), value in low_end.videos.items()]
    differences = prompt_means((prompt, two - one) for prompt, one, two in pairs if one is not None and two is not None)
    if low_end is high_end or not differences:
        return
    low, high = interval(differences) or (None, None)
    yield {
        **{"model": model, "method": method, "knob": knob, "first": first, "last": last, "others": others},
        **{"prompts": len(differences), "difference": math.fsum(differences) / len(differences)},
        **{"low": low, "high": high},
    }
