"""What the scripts of the report read: runs with their values, videos, times and head choices, as plain JSON values."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.again import again
from analysis.colors import Colors
from analysis.filters import filters
from analysis.head_maps import head_maps
from analysis.remarks import NOT_MEASURED, floor_number
from analysis.settings import counted, describe, knob_text
from analysis.statistics import Values
from analysis.summary import FORMATS, QUALITY, full_labels, summary

_SIGNS = {"infinite": "∞"}
_SPEEDS = ("speedup", "denoise_speedup", "attention_speedup")
_DIGITS = {"psnr_db": 2, "ssim": 4, "vmaf": 1, "lpips_alex": 4, "lpips_vgg": 4, **dict.fromkeys(_SPEEDS, 2)}
_DENSITIES = {"tile": "density_executed", "token": "density_executed_token", "overall": "density_overall"}
_DENSITY_NAMES = {
    "tile": "executed, by tile",
    "token": "executed, by token",
    "overall": "overall, dense steps and layers included",
}


def payload(measurements: pd.DataFrame, runs: pd.DataFrame, colors: Colors) -> dict[str, Any]:
    """Return the report's data without its videos, which `embed` adds.

    Failed runs are not in it: they have no numbers, and stand in the table.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        colors: Of the methods.
    """
    facts, values = describe(runs), Values(measurements)
    table = runs[runs["status"] == "complete"].set_index("run_id", drop=False).astype(object)
    found = protocols(measurements)
    tables = [summary(measurements, runs, protocol=name, pooled=False) for name in found]
    for rows in tables:
        rows["label"] = full_labels(rows)
    by_run = {name: rows.set_index(rows["runs"].str[0]) for name, rows in zip(found, tables, strict=True)}
    metrics = _metrics(by_run, measurements)
    details = dict(list(measurements[measurements[["frame", "head"]].notna().any(axis=1)].groupby("run_id")))
    places = {run_id: place for place, run_id in enumerate(runs["run_id"])}
    entries = []
    for run_id in tables[0]["runs"].str[0]:
        if run_id not in table.index:
            continue
        run, own = table.loc[run_id], details.get(run_id)
        rows = {name: table_of.loc[run_id] for name, table_of in by_run.items()}
        entry = _run(run, facts.loc[run_id], rows, metrics)
        entry |= {"place": places[run_id], "command": again(run)}
        entry |= {
            "color": colors.place(run["model"], run["method"]),
            "series": colors.name(run["model"], run["method"]),
        }
        entries.append(entry | {"videos": _clips(run, values, own, found[0]), "heads": head_maps(own, entry["steps"])})
    return {
        "quality": [metric for metric in metrics if metric["quantity"] in QUALITY],
        "speed": [metric for metric in metrics if metric["quantity"] not in QUALITY],
        "densities": [
            {"key": key, "name": name}
            for key, name in _DENSITY_NAMES.items()
            if any(entry["density"][key] is not None for entry in entries)
        ],
        "noFloor": NOT_MEASURED,
        "noChart": "" if metrics else "These runs have neither a quality nor a speed." if entries else _why_none(runs),
        "filters": filters(runs, facts),
        "prompts": {prompt["prompt_id"]: prompt["text"] for listed in table["prompts"] for prompt in listed},
        "runs": entries,
        "videos": {},
    }


def _why_none(runs: pd.DataFrame) -> str:
    """Say why no run has numbers."""
    status, error = (runs[name].fillna("").iloc[0] for name in ("status", "error.message"))
    more = f" ({counted(len(runs) - 1, 'run')} more)" if len(runs) > 1 else ""
    return f"No run is complete: {status}{f', {error}' if error else ''}{more}"


def protocols(measurements: pd.DataFrame) -> list[str]:
    """Return the protocols in which quality was measured, the standard one first; that one alone where none was."""
    found = measurements.loc[measurements["quantity"].isin(QUALITY), "protocol"].dropna().unique()
    return sorted(found, key=lambda name: (name != "standard", name)) or ["standard"]


def _metrics(by_run: dict[str, pd.DataFrame], measurements: pd.DataFrame) -> list[dict[str, Any]]:
    """The quantities that somebody asked for, each in each protocol it has."""
    metrics = []
    for place, (protocol, rows) in enumerate(by_run.items()):
        for quantity in (*QUALITY, *(_SPEEDS if place == 0 else ())):
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
        "steps": int(_plain(run.get("config.model.num_inference_steps"), 0)),
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
        "low": _number(row[f"{quantity}_ci_low"]),
        "high": _number(row[f"{quantity}_ci_high"]),
        "infinite": int(row[f"{quantity}_infinite"]),
        "total": int(row[f"{quantity}_total"]),
        "note": row[f"{quantity}_note"],
        "noise": row.get(f"{quantity}_noise", ""),
        "floor": _floor(row, quantity),
    }


def _floor(row: pd.Series, quantity: str) -> dict[str, Any] | None:
    """The noise floor of one number: its text, and its height in a chart where it is finite."""
    value = row.get(f"{quantity}_floor")
    if value is None or pd.isna(value):
        return None
    backend = row[f"{quantity}_floor_backend"]
    text = f"{FORMATS[quantity][0]} {floor_number(quantity, value)}, dense on {backend}"
    return {"text": text, "value": None if math.isinf(value) else _number(value)}


def _plain(value: Any, otherwise: int) -> int:
    return otherwise if value is None or pd.isna(value) else value


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.6g}")


def _clips(run: pd.Series, values: Values, details: pd.DataFrame | None, protocol: str) -> list[dict[str, Any]]:
    """The videos of a run with their numbers; ``sparse`` and ``dense`` are paths until `embed` replaces them."""
    frames: dict[tuple[str, int], pd.DataFrame] = {}
    if details is not None:
        rows = details[(details["quantity"] == "psnr_db") & (details["protocol"] == protocol)]
        frames = dict(list(rows.groupby(["prompt_id", "seed"])))
    clips = []
    for video in run["videos"]:
        place = (video["prompt_id"], video["seed"])
        numbers = _clip_values(run["run_id"], values, place, protocol)
        # One encoder makes two files of equal frames: of what is known to be identical, one is shown twice.
        is_identical = ["PSNR dB", "∞", ""] in numbers and video["dense_preview"] is not None
        clips.append(
            {
                "prompt": video["prompt_id"],
                **{name: video[name] for name in ("seed", "fps", "frames", "width", "height")},
                "sparse": video["dense_preview"] if is_identical else video["preview"],
                "dense": video["dense_preview"],
                "values": numbers,
                "psnr": _psnr_by_frame(frames[place], video["frames"]) if place in frames else None,
            }
        )
    return clips


def _clip_values(run_id: str, values: Values, place: tuple[str, int], protocol: str) -> list[list[str]]:
    """Names and texts of the numbers of one video, each with why it is none."""
    found = []
    for name in (*QUALITY, "speedup"):
        for value in values.select([run_id], name, protocol if name in QUALITY else None):
            if (value.prompt_id, value.seed) == place:
                is_number = value.status == "ok"
                text = FORMATS[name][1].format(value.value) if is_number else _SIGNS.get(value.status, "n/a")
                # What follows a semicolon would mend it, and stands below the table.
                reason = (value.reason or "").split(";")[0] if text == "n/a" else ""
                found.append([FORMATS[name][0], text, reason])
    return found


def _psnr_by_frame(rows: pd.DataFrame, frames: int) -> list[float | None]:
    values: list[float | None] = [None] * frames
    for frame, value in zip(rows["frame"], rows["value"], strict=True):
        if frame < frames and not pd.isna(value):
            values[frame] = round(value, 2)
    return values


def embed(content: dict[str, Any], folders: Mapping[str, str], max_bytes: int) -> list[str]:
    """Put the previews' bytes into a `payload`, each once, prompt after prompt until ``max_bytes`` are spent.

    Args:
        content: From `payload`; changed in place.
        folders: Path of every run by its id.
        max_bytes: Room for videos, as base64.

    Returns:
        The names of the pairs of videos that did not fit.
    """
    videos: dict[str, str] = content["videos"]
    left_out = []
    queue = [(place, run["id"], clip) for run in content["runs"] for place, clip in enumerate(run["videos"])]
    for _, run_id, clip in sorted(queue, key=lambda item: item[0]):
        new = {}
        for name in ("dense", "sparse"):
            data = _content(Path(folders[run_id], clip[name])) if clip[name] is not None else None
            clip[name] = None if data is None else hashlib.sha256(data).hexdigest()[:16]
            if data is not None and clip[name] not in videos:
                new[clip[name]] = base64.b64encode(data).decode()
        size = sum(map(len, new.values()))
        if size > max_bytes:
            left_out.append(f"{run_id}: {clip['prompt']}, seed {clip['seed']}")
            continue
        max_bytes -= size
        videos |= new
    return left_out


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # Somebody made room; the record's numbers stand without it.
        return None
