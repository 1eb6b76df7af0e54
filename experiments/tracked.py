"""What Weights & Biases is told of a record: settings, tags, histories, the machine, and a sweep's table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from svg.results import RecordError, RunRecord, read_measurements, read_run

# A row for each dense backend that was tried: their mean is of nothing.
_OF_CANDIDATES = "dense_call_ms"
# A row for every attention call: for the record on disk, not for a table that people read.
CALLS = ("call_density",)
# Of a head, in [0, 1] by definition: what a histogram over heads has fixed bins for.
HISTOGRAMS = ("head_choice", "head_margin")
# Files of ``conf/`` that stand for several settings, by the name of their group.
_PICKED = ("prompts", "quality", "statistics", "case", "embedded")
# What Weights & Biases takes of a tag.
_TAG_LENGTH = 64
# Columns of a sweep's table, by quantity and protocol.
_NUMBERS = {
    "density_requested": "density_requested",
    "density_executed": "density_executed/tile",
    "psnr_db": "psnr_db/standard",
    "ssim": "ssim/standard",
    "lpips_alex": "lpips_alex/standard",
    "lpips_vgg": "lpips_vgg/standard",
    "vmaf": "vmaf/standard",
    "speedup": "speedup",
    "denoise_speedup": "denoise_speedup",
    "attention_speedup": "attention_speedup",
}
SWEEP_COLUMNS = ("run_id", "model", "method", "settings", *_NUMBERS, "identical_videos", "status", "error")


def group_of(record: RunRecord) -> str | None:
    """Return the sweep that made a run, or the experiment that it belongs to; None for a run by itself."""
    return record.sweep or record.experiment


def config_of(record: RunRecord, rows: pa.Table) -> dict[str, Any]:
    """Return a run's settings for charts: nested as recorded, and beside them at the top the ones that charts need.

    Those are the method's fields, what the command line set, by the last part of their names, and the names of what
    was picked: ``sparsity``, ``num_inference_steps``, ``model_name``.
    """
    flat = {name: value for name, value in record.config.get("method", {}).items() if _is_plain(value)}
    flat.pop("_target_", None)
    for text in record.overrides:
        key, _, value = text.lstrip("+").partition("=")
        found = _at(record.config, key.split("."))
        if key in _PICKED:
            flat[f"{key}_name"] = value
        elif _is_plain(found):
            last = key.rpartition(".")[2]
            flat[last if flat.get(last, found) == found else key.replace(".", "_")] = found
    names = ("model", "method", "backend", "dense_backend")
    return {
        **{name: value for name, value in flat.items() if name not in record.config},
        **record.config,
        **{f"{name}_name": getattr(record, name) for name in names},
        "experiment": record.experiment,
        "sweep": record.sweep,
        "density_requested": means(rows).get("density_requested"),
        "config_hash": record.config_hash,
        "provenance": record.provenance,
    }


def tags_of(record: RunRecord, rows: pa.Table) -> list[str]:
    """Return model, method, density, experiment, commit, and ``dirty`` where the checkout had other changes."""
    density, commit = means(rows).get("density_requested"), record.provenance.get("commit")
    tags = [
        record.model,
        record.method,
        None if density is None else f"density={density:g}",
        record.experiment,
        None if commit is None else f"commit={commit[:10]}",
        "dirty" if record.provenance.get("dirty") else None,
    ]
    return [tag[:_TAG_LENGTH] for tag in dict.fromkeys(tags) if tag]


def means(rows: pa.Table) -> dict[str, float]:
    """Return the mean over videos of each quantity of a whole video, by ``quantity`` or ``quantity/protocol``."""
    whole = _whole_videos(rows)
    is_mean = pc.and_(pc.equal(whole["status"], "ok"), pc.not_equal(whole["quantity"], _OF_CANDIDATES))
    grouped = whole.filter(is_mean).group_by(["quantity", "protocol"])
    found = grouped.aggregate([("value", "mean")]).to_pylist()
    return {_name(row["quantity"], row["protocol"]): row["value_mean"] for row in found}


def head_history(rows: pa.Table) -> dict[int, dict[str, float]]:
    """Return for each step, in order, means over heads, branches and videos: by quantity (and pattern) and layer."""
    history: dict[int, dict[str, float]] = {}
    for row in _of_heads(rows, "step", "layer"):
        name = "head_share_temporal" if row["quantity"] == "head_choice" else row["quantity"]
        history.setdefault(row["step"], {})[f"{_name(name, row['protocol'])}/{_layer(row)}"] = row["value_mean"]
    return dict(sorted(history.items()))


def head_values(rows: pa.Table) -> dict[int, dict[str, list[float]]]:
    """Return for each step, in order, a value per head, mean over branches and videos: by quantity and layer."""
    kept = rows.filter(pc.is_in(rows["quantity"], pa.array(HISTOGRAMS)))
    values: dict[int, dict[str, list[float]]] = {}
    for row in _of_heads(kept, "step", "layer", "head"):
        values.setdefault(row["step"], {}).setdefault(f"{row['quantity']}/{_layer(row)}", []).append(row["value_mean"])
    return dict(sorted(values.items()))


def machine_of(record: RunRecord, rows: pa.Table) -> dict[str, Any]:
    """Return the machine of a run and what the run took of it: memory, and the GPU's clocks where they were sampled."""
    facts = record.provenance
    gpu, cpu = facts.get("gpu") or {}, facts.get("cpu") or {}
    found = {
        "gpu": gpu.get("name"),
        "gpu_driver": gpu.get("driver"),
        "cpu": cpu.get("name"),
        "cores": cpu.get("cores"),
        "threads": facts.get("threads"),
        "load_average": (facts.get("load_average") or [None])[0],
    }
    units = ("GiB", "MHz", "W", "°C")
    found |= means(rows.filter(pc.is_in(rows["unit"], pa.array(units))))
    return {f"machine/{name}": value for name, value in found.items() if value is not None}


def sweep_row(path: Path) -> list[Any]:
    """Return a run's row in its sweep's table, as ``SWEEP_COLUMNS``; one that cannot be read is ``damaged``."""
    try:
        record = read_run(path)
        rows = read_measurements(path, record.measurements_sha256)
    except RecordError as error:
        return [path.name, *[None] * (len(SWEEP_COLUMNS) - 3), "damaged", str(error)]
    found = means(rows)
    whole = _whole_videos(rows)
    is_psnr = pc.and_(pc.equal(whole["quantity"], "psnr_db"), pc.equal(whole["protocol"], "standard"))
    is_identical = pc.and_(is_psnr, pc.equal(whole["status"], "infinite"))
    numbers = [found.get(name) for name in _NUMBERS.values()]
    settings = " ".join(record.overrides)
    error_text = None if record.error is None else record.error["message"]
    identical = pc.sum(is_identical).as_py() or 0
    return [path.name, record.model, record.method, settings, *numbers, identical, record.status, error_text]


def by_sweep(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the runs of each sweep or experiment; a run that belongs to none, or cannot be read, is in no list."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        try:
            group = group_of(read_run(path))
        except RecordError:
            continue
        if group is not None:
            found.setdefault(group, []).append(path)
    return found


def _whole_videos(rows: pa.Table) -> pa.Table:
    keep = pc.is_null(rows["step"])
    for column in ("layer", "head", "frame"):
        keep = pc.and_(keep, pc.is_null(rows[column]))
    return rows.filter(keep)


def _of_heads(rows: pa.Table, *places: str) -> list[dict[str, Any]]:
    """Return the mean of each quantity (and pattern) of heads at each place."""
    heads = rows.filter(pc.and_(pc.is_valid(rows["head"]), pc.is_valid(rows["value"])))
    return heads.group_by([*places, "quantity", "protocol"]).aggregate([("value", "mean")]).to_pylist()


def _name(quantity: str, protocol: str | None) -> str:
    return quantity if protocol is None else f"{quantity}/{protocol}"


def _layer(row: dict[str, Any]) -> str:
    return f"layer_{row['layer']:02d}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _at(settings: Any, parts: Sequence[str]) -> Any:
    """Return the setting of a dotted name; None where there is none."""
    for part in parts:
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings
