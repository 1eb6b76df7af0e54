"""How long the runs of a sweep take and how much they write, from earlier runs of this machine or from operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
import torch

from experiments.forecasting import forecast
from experiments.planning import Plan
from experiments.schema import Config, PlanConfig
from svg import provenance
from svg.cost.flops import PETA
from svg.cost.rate import product_flops_per_s
from svg.results import RecordError, RunRecord, canonical_json, list_runs, read_measurements, read_run

# Values of a red, a green and a blue channel.
PIXEL_BYTES = 3


@dataclass(frozen=True)
class Estimate:
    """What one video takes.

    Args:
        sparse_s: Seconds of the video itself; None where nothing tells.
        dense_s: Of its dense twin.
        bytes: That are written of each of the two.
        source: Where the seconds come from.
    """

    sparse_s: float | None
    dense_s: float | None
    bytes: float
    source: str


@dataclass
class _Seen:
    """What earlier runs of one model took, video by video; sparse ones by method."""

    sparse_s: dict[str, list[float]] = field(default_factory=dict)
    dense_s: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)


class Estimator:
    """Estimates runs from the records below one folder.

    Args:
        runs_dir: Where records may be; runs of other hardware are passed over, and so is what cannot be read.
        device_type: ``"cpu"`` or ``"cuda"``, whose records count.
    """

    def __init__(self, runs_dir: str | Path, device_type: str) -> None:
        self._seen: dict[str, _Seen] = {}
        self.twins: set[str] = set()
        self._device = provenance.hardware(device_type)["device"]
        for path in list_runs(runs_dir) if Path(runs_dir).is_dir() else []:
            try:
                record = read_run(path)
                # Plans, rates, steps and replays stand in such folders, too, and made no videos.
                is_of_videos = record.status == "complete" and "prompts" in record.config
                if is_of_videos and _device_of(record.provenance) == self._device:
                    self._note(path, record)
            except RecordError:
                continue

    def __call__(self, plan: Plan) -> Estimate:
        """Return what a video of a run takes.

        Raises:
            ValueError: If the method refuses the model's size.
        """
        model = plan.config.model
        raw = float(model.num_frames * model.height * model.width * PIXEL_BYTES)
        seen = self._seen.get(canonical_json(plan.settings["model"]))
        if seen is None:
            return self._by_operations(plan, raw)
        dense_s, size = fmean(seen.dense_s), fmean(seen.bytes) if seen.bytes else raw
        known = seen.sparse_s.get(canonical_json(plan.settings["method"]))
        if known is not None:
            return Estimate(fmean(known), dense_s, size, f"from earlier videos of the same settings on {self._device}")
        return Estimate(dense_s, dense_s, size, f"from earlier dense videos on {self._device}, more than sparse ones")

    def _by_operations(self, plan: Plan, raw: float) -> Estimate:
        config = plan.config
        if config.model.geometry is None or config.model.transformer is None:
            return Estimate(None, None, raw, "no earlier run on this machine, and the model's sizes are not given")
        settings = {name.name: getattr(config, name.name) for name in fields(Config)}
        found = forecast(PlanConfig(**settings), plan.names)
        rate = product_flops_per_s(plan.device, getattr(torch, config.model.dtype)) / PETA
        dense, sparse = found["pflops_dense"], found["pflops_sparse"]
        source = "from the operations of the transformer, at the rate of a matrix product here: a lower bound"
        return Estimate((dense if sparse is None else sparse) / rate, dense / rate, raw, source)

    def _note(self, path: Path, record: RunRecord) -> None:
        rows = read_measurements(path, record.measurements_sha256)
        seen = self._seen.setdefault(canonical_json(record.config["model"]), _Seen())
        for quantity, values in (
            ("generation_s", seen.sparse_s.setdefault(canonical_json(record.config["method"]), [])),
            ("dense_generation_s", seen.dense_s),
        ):
            values += rows.filter(pc.equal(rows["quantity"], quantity))["value"].drop_null().to_pylist()
        # A record may have been kept without its videos.
        files = [path / video.sparse for video in record.videos]
        seen.bytes += [float(file.stat().st_size) for file in files if file.is_file()]
        self.twins |= twins_of(record.config)


def twins_of(settings: Mapping[str, Any]) -> set[str]:
    """Return a text for each dense twin that a run of these settings needs, those of `plain_twins` included."""
    shared = {name: settings.get(name) for name in ("dense_backend", "compile", "device", "threads")}
    model = settings["model"]
    models = [model]
    if "linear_precision" in model:
        models.append({name: value for name, value in model.items() if name != "linear_precision"})
    return {
        canonical_json({**shared, "model": one, "prompt": prompt, "seed": seed})
        for one in models
        for prompt in settings["prompts"]
        for seed in settings["seeds"]
    }


def _device_of(facts: Mapping[str, Any]) -> Any:
    return (facts.get("gpu") or facts["cpu"])["name"]
