"""What the scripts of the report read: runs with their values, videos, times and head choices, as plain JSON values."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.settings import describe, knob_text
from analysis.summary import FORMATS, QUALITY, summary

# A share of 0 to 1 as a byte of 0 to 250; 255 where no choice was made.
_FULL, _NONE = 250, 255
_DIGITS = {"psnr_db": 2, "ssim": 4, "vmaf": 1, "lpips_alex": 4, "lpips_vgg": 4, "speedup": 2, "attention_speedup": 2}
_DENSITIES = {"tile": "density_executed", "token": "density_executed_token", "overall": "density_overall"}
_DENSITY_NAMES = {
    "tile": "executed, by tile",
    "token": "executed, by token",
    "overall": "overall, dense steps and layers included",
}
PHASES = ("attention", "profiling", "reordering", "rest")


def payload(measurements: pd.DataFrame, runs: pd.DataFrame, max_bytes: int) -> tuple[dict[str, Any], list[str]]:
    """Return the report's data, and the names of the videos that were left out to stay below ``max_bytes``.

    Failed runs are not in it: they have no numbers, and stand in the table.
    """
    facts = describe(runs)
    whole = runs[runs["status"] == "complete"]
    protocols = _protocols(measurements)
    tables = {name: summary(measurements, runs, protocol=name, pooled=False) for name in protocols}
    by_run = {name: table.set_index(table["runs"].str[0]) for name, table in tables.items()}
    order = [run_id for run_id in next(iter(by_run.values())).index if run_id in set(whole["run_id"])]
    table = whole.set_index("run_id", drop=False)
    groups = dict(list(measurements.groupby("run_id")))
    metrics = _metrics(by_run, measurements)
    entries = [
        _run(table.loc[run_id], facts.loc[run_id], {name: rows.loc[run_id] for name, rows in by_run.items()}, metrics)
        | {"videos": _clips(table.loc[run_id], groups.get(run_id)), "heads": _heads(groups.get(run_id))}
        for run_id in order
    ]
    videos, left_out = _embed(entries, dict(zip(table["run_id"], table["path"], strict=True)), max_bytes)
    prompts = {prompt["prompt_id"]: prompt["text"] for listed in whole["prompts"] for prompt in listed}
    shown = {
        "quality": [metric for metric in metrics if metric["quantity"] in QUALITY],
        "speed": [metric for metric in metrics if metric["quantity"] not in QUALITY],
        "densities": [
            {"key": key, "name": name}
            for key, name in _DENSITY_NAMES.items()
            if any(entry["density"][key] is not None for entry in entries)
        ],
        "methods": list(dict.fromkeys(next(iter(tables.values()))["method"])),
        "prompts": prompts,
        "runs": entries,
        "videos": videos,
    }
    return shown, left_out


def _protocols(measurements: pd.DataFrame) -> list[str]:
    found = measurements.loc[measurements["quantity"].isin(QUALITY), "protocol"].dropna().unique()
    return sorted(found, key=lambda name: (name != "standard", name)) or ["standard"]


def _metrics(by_run: dict[str, pd.DataFrame], measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """The quantities that somebody asked for, each in each protocol it has."""
    metrics = []
    for place, (protocol, rows) in enumerate(by_run.items()):
        for quantity in (*QUALITY, *(("speedup", "attention_speedup") if place == 0 else ())):
            if not (rows[f"{quantity}_total"] > 0).any():
                continue
            better = measurements.loc[measurements["quantity"] == quantity, "higher_is_better"].dropna()
            is_quality = quantity in QUALITY
            metrics.append(
                {
                    "key": f"{quantity} {protocol}" if is_quality else quantity,
                    "quantity": quantity,
                    "protocol": protocol,
                    "name": FORMATS[quantity][0] + (f" ({protocol})" if is_quality and len(by_run) > 1 else ""),
                    "digits": _DIGITS[quantity],
                    "isHigherBetter": bool(better.iloc[0]) if len(better) else not quantity.startswith("lpips"),
                    "versus": not is_quality,
                }
            )
    return metrics


def _run(run: pd.Series, facts: pd.Series, rows: dict[str, pd.Series], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    row = next(iter(rows.values()))
    rest = {name: value for name, value in facts["knobs"].items() if name not in ("sparsity", "density")}
    return {
        "id": run["run_id"],
        "name": f"{row['label']}, seed {', '.join(map(str, run['seeds']))}",
        "label": row["label"],
        "method": run["method"],
        "denseBackend": run["dense_backend"],
        "family": f"{run['model']} {run['method']} {knob_text(rest)} {facts['environment']} {run['seeds']}",
        "density": {key: _number(row[name]) for key, name in _DENSITIES.items()},
        "values": {
            metric["key"]: _estimate(rows[metric["protocol"]], metric["quantity"])
            for metric in metrics
            if rows[metric["protocol"]][f"{metric['quantity']}_total"]
        },
    }


def _estimate(row: pd.Series, quantity: str) -> dict[str, Any]:
    return {
        "mean": _number(row[quantity]),
        "half": _number(row[f"{quantity}_ci95"]),
        "infinite": int(row[f"{quantity}_infinite"]),
        "total": int(row[f"{quantity}_total"]),
        "note": row[f"{quantity}_note"],
    }


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.6g}")


def _clips(run: pd.Series, rows: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The videos of a run with their numbers; ``sparse`` and ``dense`` are paths until `_embed` replaces them."""
    clips = []
    for video in run["videos"]:
        of_clip = rows
        if rows is not None:
            of_clip = rows[(rows["prompt_id"] == video["prompt_id"]) & (rows["seed"] == video["seed"])]
        clips.append(
            {
                "prompt": video["prompt_id"],
                "seed": video["seed"],
                **{name: video[name] for name in ("fps", "frames", "width", "height")},
                "sparse": video["preview"],
                "dense": video["dense_preview"],
                "values": [] if of_clip is None else _clip_values(of_clip),
                "psnr": None if of_clip is None else _psnr_by_frame(of_clip, video["frames"]),
            }
        )
    return clips


def _clip_values(rows: pd.DataFrame) -> list[list[str]]:
    of_video = rows[rows[["step", "layer", "head", "frame"]].isna().all(axis=1)]
    first = _protocols(rows)[0]
    values = []
    for name in (*QUALITY, "speedup"):
        asked = of_video[(of_video["quantity"] == name)]
        if name in QUALITY:
            asked = asked[asked["protocol"] == first]
        for row in asked.itertuples():
            text = {"ok": FORMATS[name][1].format(row.value), "infinite": "∞"}.get(row.status, "n/a")
            values.append([FORMATS[name][0], text])
    return values


def _psnr_by_frame(rows: pd.DataFrame, frames: int) -> list[float | None] | None:
    of_frames = rows[(rows["quantity"] == "psnr_db") & rows["frame"].notna()]
    of_frames = of_frames[of_frames["protocol"] == _protocols(of_frames)[0]]
    if of_frames.empty:
        return None
    values: list[float | None] = [None] * frames
    for row in of_frames.itertuples():
        if row.frame < frames and row.status == "ok":
            values[row.frame] = round(row.value, 2)
    return values


def _embed(entries: list[dict[str, Any]], folders: dict[str, str], max_bytes: int) -> tuple[dict[str, str], list[str]]:
    """Put the previews' bytes into one table, each once, prompt after prompt until ``max_bytes`` are spent."""
    videos: dict[str, str] = {}
    left_out = []
    spent = 0
    queue = sorted(
        ((place, entry, clip) for entry in entries for place, clip in enumerate(entry["videos"])),
        key=lambda item: item[0],
    )
    for _, entry, clip in queue:
        wanted = {}
        for name in ("dense", "sparse"):
            if clip[name] is None:
                continue
            content = _content(Path(folders[entry["id"]], clip[name]))
            clip[name] = None if content is None else hashlib.sha256(content).hexdigest()[:16]
            if content is not None:
                wanted[clip[name]] = content
        new = {key: base64.b64encode(content).decode() for key, content in wanted.items() if key not in videos}
        size = sum(map(len, new.values()))
        if spent + size > max_bytes:
            left_out.append(f"{entry['id']}: {clip['prompt']}, seed {clip['seed']}")
            continue
        spent += size
        videos |= new
    return videos, left_out


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # Somebody made room; the record's numbers stand without it.
        return None


def _heads(rows: pd.DataFrame | None) -> dict[str, Any] | None:
    """Shares of videos that chose the temporal pattern, and mean margins, as bytes [branch][step][layer][head]."""
    if rows is None:
        return None
    choices = rows[(rows["quantity"] == "head_choice") & (rows["status"] == "ok")]
    if choices.empty:
        return None
    branches = sorted(choices["branch"].fillna("").unique())
    sizes = [int(choices[name].max()) + 1 for name in ("step", "layer", "head")]
    if rows["step"].notna().any():
        sizes[0] = max(sizes[0], int(rows["step"].max()) + 1)
    shape = (len(branches), *sizes)
    margins = rows[(rows["quantity"] == "head_margin") & (rows["status"] == "ok")]
    is_temporal = choices.assign(value=(choices["value"] == 1).astype(float))
    return {
        "branches": [name or "both" for name in branches],
        **dict(zip(("steps", "layers", "heads"), sizes, strict=True)),
        "choice": _bytes(is_temporal, branches, shape),
        "margin": None if margins.empty else _bytes(margins, branches, shape),
    }


def _bytes(rows: pd.DataFrame, branches: list[str], shape: tuple[int, ...]) -> str:
    place = [rows["branch"].fillna("").map(branches.index), rows["step"], rows["layer"], rows["head"]]
    means = rows["value"].groupby(place).mean()
    grid = np.full(shape, _NONE, np.uint8)
    indices = tuple(np.array(level, dtype=int) for level in zip(*means.index, strict=True))
    grid[indices] = np.rint(np.clip(means.to_numpy(float), 0, 1) * _FULL).astype(np.uint8)
    return base64.b64encode(grid.tobytes()).decode()


def times(measurements: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """Return the mean seconds of one generation of a summary's row by phase; empty where none was timed."""
    rows = measurements[
        measurements["run_id"].isin(row["runs"])
        & (measurements["quantity"] == "phase_s")
        & (measurements["status"] == "ok")
        & measurements[["step", "layer", "head", "frame"]].isna().all(axis=1)
    ]
    found = rows.groupby("protocol")["value"].mean()
    order = [*PHASES, *sorted(set(found.index) - set(PHASES))]
    return {name: float(found[name]) for name in order if name in found}
