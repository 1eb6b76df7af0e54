"""One row per setting of all runs: its speed, its quality, and why a number is missing."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.noise import NoiseFloors, mean_distance
from analysis.settings import describe, knob_text
from analysis.statistics import Estimate, Value, Values, estimate

# Column of the table: (quantity, protocol; None for any).
_FIXED = {
    "density_executed": ("density_executed", "tile"),
    "density_executed_token": ("density_executed", "token"),
    "density_overall": ("density_overall", "tile"),
    "density_requested": ("density_requested", None),
    "speedup": ("speedup", None),
    "denoise_speedup": ("denoise_speedup", None),
    "attention_speedup": ("attention_speedup", None),
    "generation_s": ("generation_s", None),
    "dense_generation_s": ("dense_generation_s", None),
    "peak_memory_gib": ("peak_memory_gib", None),
    "fallbacks": ("fallbacks", None),
}
QUALITY = ("psnr_db", "ssim", "vmaf", "lpips_alex", "lpips_vgg")
# How a number is written: its name in a heading, and its format.
FORMATS = {
    "density_executed": ("density", "{:.3f}"),
    "density_executed_token": ("density by token", "{:.3f}"),
    "density_overall": ("overall density", "{:.3f}"),
    "speedup": ("speed-up", "{:.2f}×"),
    "denoise_speedup": ("denoising speed-up", "{:.2f}×"),
    "attention_speedup": ("attention speed-up", "{:.2f}×"),
    "psnr_db": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "vmaf": ("VMAF", "{:.1f}"),
    "lpips_alex": ("LPIPS alex", "{:.4f}"),
    "lpips_vgg": ("LPIPS vgg", "{:.4f}"),
}


def summary(
    measurements: pd.DataFrame, runs: pd.DataFrame, *, protocol: str = "standard", pooled: bool = True
) -> pd.DataFrame:
    """Return one row per setting: what ran, how dense, how fast, how good.

    Runs that differ in nothing but their seeds share a row, unless they ran on different machines, versions or code
    (``environment``). A failed or damaged run is a row of its own.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        protocol: Of the quality quantities.
        pooled: False for one row per run.

    Returns:
        Columns ``label``, ``model``, ``method``, ``knobs`` (a dict of the settings that differ), ``backend``,
        ``dense_backend``, ``environment``, ``runs`` (ids), ``status``, ``error``, ``videos`` (prompts times seeds);
        and for each quantity Q: ``Q`` (mean over prompts), ``Q_ci_low``, ``Q_ci_high`` (its 95 % interval), ``Q_low``,
        ``Q_high``, ``Q_prompts``, ``Q_n`` (values in the mean), ``Q_total``, ``Q_infinite`` (identical videos),
        ``Q_note`` (why values are missing). Quantities are densities, speed-ups, times, memory, fallbacks
        (sparse calls that ran dense) and quality. Densities are those of
        the sparse calls, tile by tile unless the name says otherwise. Qualities have a noise floor, too: ``Q_floor``
        (infinite where other kernels' videos were identical, missing where none was measured), ``Q_floor_backend``,
        and ``Q_noise``: ``"within noise"``, ``"noise floor"`` of a run that measured it, else empty.
    """
    facts = describe(runs)
    table = runs.sort_values("created", kind="stable").set_index("run_id", drop=False)
    keys = facts["settings"] + facts["environment"]
    # A failed run has nothing to share.
    is_whole = table["status"] == "complete"
    keys = keys.where(is_whole & pooled, table["run_id"])
    values = Values(measurements)
    floors = NoiseFloors(measurements, runs, values)
    groups = table.groupby(keys, sort=False).groups.values()
    # Plain objects: a row of many columns of pandas' own types is slow to take.
    plain = table.astype(object)
    rows = [_row(list(ids), plain.loc[ids[0]], facts.loc[ids[0]], values, floors, protocol) for ids in groups]
    return _sorted(pd.DataFrame(rows))


def quality_columns(table: pd.DataFrame) -> list[str]:
    """Return the quality quantities that any row of a summary was asked about."""
    return [name for name in QUALITY if (table[f"{name}_total"] > 0).any()]


def rounding_by_method(table: pd.DataFrame) -> dict[str, float]:
    """Return by method how far the density computed lies from the one asked for, where that is furthest.

    It is rounding, save where a method counts otherwise: the reference code leaves its sink out.
    """
    off = (table["density_executed"] - table["density_requested"]).dropna()
    furthest = off.groupby(table["method"]).agg(lambda values: max(values, key=abs))
    return {str(method): float(value) for method, value in furthest.items()}


def full_labels(table: pd.DataFrame) -> list[str]:
    """Return a name for each row of a summary that no other row has: with the model and the environment if several."""
    several_models, several_machines = table["model"].nunique() > 1, table["environment"].nunique() > 1
    return [
        (f"{row.model} " if several_models and not pd.isna(row.model) else "")
        + row.label
        + (f" [{row.environment}]" if several_machines and not pd.isna(row.environment) else "")
        for row in table.itertuples()
    ]


def cell(row: pd.Series, quantity: str, *, interval: bool = True) -> str:
    """Return one number of a summary's row as text; empty where it was not asked about, its note where it has none."""
    template = FORMATS[quantity][1]
    if pd.isna(row[quantity]):
        return row[f"{quantity}_note"]
    text = template.format(row[quantity])
    return " ".join(filter(None, [text, interval_text(row, quantity) if interval else ""]))


def interval_text(row: pd.Series, quantity: str) -> str:
    """Return the 95 % interval of a number of a summary's row as text; empty where there is none, or none to see."""
    ends = [row[f"{quantity}_ci_low"], row[f"{quantity}_ci_high"]]
    low, high = ("" if pd.isna(end) else FORMATS[quantity][1].format(end).rstrip("×") for end in ends)
    return "" if low == high else f"[{low}, {high}]"


def _row(
    ids: list[str], first: pd.Series, facts: pd.Series, values: Values, floors: NoiseFloors, protocol: str
) -> dict[str, Any]:
    knobs = facts["knobs"]
    # Of a damaged run only its name is known.
    label = ids[0] if pd.isna(first["method"]) else " ".join(filter(None, [first["method"], knob_text(knobs)]))
    row: dict[str, Any] = {
        "label": label,
        **{name: first[name] for name in ("model", "method", "backend", "dense_backend")},
        "knobs": knobs,
        "environment": facts["environment"],
        "runs": ids,
        "status": first["status"],
        "error": "" if pd.isna(first["error.message"]) else str(first["error.message"]),
        "videos": len(values.videos(ids)),
    }
    for name, place in _FIXED.items():
        row |= _columns(name, estimate(values.select(ids, *place)))
    # Nothing sparse ran: what was computed is everything.
    for name in ("density_executed", "density_executed_token"):
        if row[f"{name}_total"] == 0 and row["density_overall"] == 1:
            row |= _columns(name, estimate(values.select(ids, *_FIXED["density_overall"])))
    if row["fallbacks"]:
        row["density_executed_note"] = f"{row['fallbacks']:g} sparse calls a video ran dense, on average"
    for name in QUALITY:
        found = values.select(ids, name, protocol)
        row |= _columns(name, estimate(found)) | _noise(name, first, found, floors, protocol)
    return row


def _noise(name: str, run: pd.Series, found: list[Value], floors: NoiseFloors, protocol: str) -> dict[str, Any]:
    floor, off = floors.of(run, name, protocol), mean_distance(found, name)
    text = ""
    if floor is not None and off is not None:
        if run["run_id"] in floors.runs:
            text = "noise floor"
        elif run["method"] != "dense" and off <= floor.distance:
            text = "within noise"
    return {
        f"{name}_floor": None if floor is None else floor.value,
        f"{name}_floor_backend": None if floor is None else floor.backend,
        f"{name}_noise": text,
    }


def _columns(name: str, value: Estimate) -> dict[str, Any]:
    fields = dict(vars(value))
    return {name: fields.pop("mean")} | {f"{name}_{field}": number for field, number in fields.items()}


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Dense first, then method by method as they were made; within one by density, failed runs last."""
    numbers = [name for name in table if f"{name}_ci_low" in table or name.endswith(("_low", "_high", "_floor"))]
    table[numbers] = table[numbers].astype(float)
    methods = table["method"].astype(object).fillna("")
    first_seen = {name: place for place, name in enumerate(dict.fromkeys(methods))}
    place = methods.map(lambda name: -1 if name == "dense" else first_seen[name])
    order = table.assign(_place=place, _failed=table["status"] != "complete").sort_values(
        ["model", "_place", "_failed", "density_executed", "label"], kind="stable"
    )
    # A copy is in one piece, so that readers may add columns.
    return order.drop(columns=["_place", "_failed"]).reset_index(drop=True).copy()
