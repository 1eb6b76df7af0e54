"""The noise floor: how far apart two dense videos are that differ in the kernel only; less than that means nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.settings import as_text, dense_settings
from analysis.statistics import Estimate, Value, Values, estimate, prompt_means

# From a quality to a distance, 0 for identical videos: of PSNR the root of the mean squared error, of values in [0, 1].
_DISTANCES: dict[str, Callable[[float], float]] = {
    "psnr_db": lambda value: 10 ** (-value / 20),
    "psnr_pooled_db": lambda value: 10 ** (-value / 20),
    "ssim": lambda value: 1 - value,
    "vmaf": lambda value: 100 - value,
    "lpips_alex": float,
    "lpips_vgg": float,
}
# Two kernels' videos are compared with runs of the same hardware and torch.
_MACHINE = ("provenance.gpu.name", "provenance.versions.torch")


@dataclass(frozen=True)
class NoiseFloor:
    """What dense attention on another kernel than the twin's scored in one quantity.

    Args:
        backend: The other kernel; where several ran, the one that is furthest from the twin.
        estimate: Of the quantity; no mean where every video was identical.
        distance: Mean over prompts of the distance from the twin, 0 where every video was identical.
    """

    backend: str
    estimate: Estimate
    distance: float

    @property
    def value(self) -> float:
        """Mean of the quantity; infinite where every video was identical."""
        return math.inf if self.estimate.mean is None else self.estimate.mean


class NoiseFloors:
    """Finds the noise floor that belongs to a run: of its model's settings, dense backend, hardware and torch.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        values: Of the measurements.
    """

    def __init__(self, measurements: pd.DataFrame, runs: pd.DataFrame, values: Values) -> None:
        self._values = values
        # A dense run on the twin's own backend is a copy of it; what computed its calls tells the two apart.
        calls = measurements[measurements["quantity"].eq("call_density") & measurements["method"].eq("dense")]
        is_other = calls["backend"].ne(calls["dense_backend"]).groupby(calls["run_id"]).all()
        chosen = runs[runs["status"].eq("complete") & runs["run_id"].isin(is_other.index[is_other])]
        self.runs = frozenset(chosen["run_id"])
        self._groups: dict[str, dict[str, list[str]]] = {}
        for _, run in chosen.iterrows():
            self._groups.setdefault(_place(run), {}).setdefault(run["backend"], []).append(run["run_id"])

    def of(self, run: pd.Series, quantity: str, protocol: str | None) -> NoiseFloor | None:
        """Return the floor of a run's row in `analysis.load.runs`; None where it was not measured, or cannot be."""
        if not has_floor(quantity) or not self._groups:
            return None
        found = []
        for backend, ids in self._groups.get(_place(run), {}).items():
            values = self._values.select(ids, quantity, protocol)
            off = mean_distance(values, quantity)
            if off is not None:
                found.append(NoiseFloor(backend, estimate(values), off))
        return max(found, key=lambda floor: floor.distance, default=None)


def has_floor(quantity: str) -> bool:
    """Return whether a quantity compares a video with its dense twin in a way that is known here."""
    return quantity in _DISTANCES


def distance(quantity: str, number: float) -> float:
    """Return how far a video of this quality is from its dense twin, 0 where they are identical."""
    return _DISTANCES[quantity](number)


def mean_distance(values: Sequence[Value], quantity: str) -> float | None:
    """Return the mean over prompts of each one's mean over its seeds; None where nothing was measured."""
    found = [(value.prompt_id, 0.0) for value in values if value.status == "infinite"]
    found += [(value.prompt_id, distance(quantity, value.number)) for value in values if value.number is not None]
    means = prompt_means(found)
    return math.fsum(means) / len(means) if means else None


def _place(run: pd.Series) -> str:
    """Return a text that is equal for runs whose dense twins, and so whose noise floors, are the same."""
    hardware = [name for name in _MACHINE if name in run.index]
    if "provenance.gpu.name" not in run.index or pd.isna(run["provenance.gpu.name"]):
        hardware.append("provenance.cpu.name")
    return json.dumps(dense_settings(run) | {name: as_text(run.get(name)) for name in hardware}, sort_keys=True)
