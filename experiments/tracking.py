"""Copies a finished record to Weights & Biases, offline unless asked otherwise; nothing is read back from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments.schema import TrackingConfig
from svg.results import read_measurements, read_run

# What wandb shows in one table at most.
TABLE_ROWS = 200_000
# A row for every attention call: for the record on disk, not for a table that people read.
CALLS = ("call_density",)


def check(tracking: TrackingConfig) -> None:
    """Raise ``ValueError`` if records are to be sent at once and wandb would not take them: before a run, not after."""
    if tracking.mode != "online":
        return
    import wandb

    try:
        is_logged_in = wandb.login(prompt=False)
    except wandb.errors.Error as error:
        why = " ".join(str(error).split())
        raise ValueError(f"tracking.mode=online: {why}") from error
    if not is_logged_in:
        raise ValueError(
            "tracking.mode=online, but nobody is logged in to Weights & Biases here, or WANDB_MODE says offline; call "
            "`wandb login`, or take tracking.mode=offline and publish later"
        )


def publish(tracking: TrackingConfig, path: Path) -> None:
    """Send the record in the folder ``path``; does nothing where tracking is off.

    Sent are the settings, the mean of each quantity, every row, the preview videos, and for each step and layer the
    share of temporal heads and the means over heads of all that was measured of each.

    Raises:
        ValueError: If wandb refuses, for instance because the network is gone.
    """
    if tracking.mode == "off":
        return
    import wandb

    folder = Path(tracking.dir) if tracking.dir is not None else path.parent / ".wandb"
    folder.mkdir(parents=True, exist_ok=True)
    record, rows = read_run(path), read_measurements(path)
    try:
        run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            mode="online" if tracking.mode == "online" else "offline",
            dir=str(folder),
            name=record.run_id,
            group=record.experiment,
            config={**record.config, "config_hash": record.config_hash, "provenance": record.provenance},
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
    except wandb.errors.Error as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"tracking.mode={tracking.mode}: {why}; the record in {path} is complete, send it with "
            f"python -m experiments.publish runs_dir={path.parent} run_id={path.name}"
        ) from error
    try:
        for step, values in head_history(rows).items():
            run.log(values, step=step)
        run.log(_media(wandb, path, record))
        of_heads = pc.is_valid(rows["head"])
        plain = rows.filter(pc.invert(pc.or_(of_heads, pc.is_in(rows["quantity"], pa.array(CALLS)))))
        run.log({"measurements": wandb.Table(dataframe=plain.to_pandas())})
        heads = rows.filter(of_heads)
        if len(heads):
            run.log({"heads": wandb.Table(dataframe=heads.slice(0, TABLE_ROWS).to_pandas())})
        run.summary.update(means(rows) | {"head_rows_left_out": max(0, len(heads) - TABLE_ROWS)})
    finally:
        run.finish()


def means(rows: pa.Table) -> dict[str, float]:
    """Return the mean over videos of each quantity of a whole video, by ``quantity`` or ``quantity/protocol``."""
    values: dict[str, list[float]] = {}
    for row in _whole_videos(rows).to_pylist():
        name = row["quantity"] if row["protocol"] is None else f"{row['quantity']}/{row['protocol']}"
        values.setdefault(name, []).append(row["value"])
    return {name: sum(found) / len(found) for name, found in values.items()}


def _whole_videos(rows: pa.Table) -> pa.Table:
    keep = pc.equal(rows["status"], "ok")
    for column in ("step", "layer", "head", "frame"):
        keep = pc.and_(keep, pc.is_null(rows[column]))
    return rows.filter(keep)


def head_history(rows: pa.Table) -> dict[int, dict[str, float]]:
    """Return for each step, in order, means over heads, branches and videos: by quantity (and pattern) and layer."""
    heads = rows.filter(pc.and_(pc.is_valid(rows["head"]), pc.is_valid(rows["value"])))
    grouped = heads.group_by(["step", "layer", "quantity", "protocol"]).aggregate([("value", "mean")])
    history: dict[int, dict[str, float]] = {}
    for row in grouped.to_pylist():
        name = "head_share_temporal" if row["quantity"] == "head_choice" else row["quantity"]
        name += f"/{row['protocol']}" if row["protocol"] is not None else ""
        history.setdefault(row["step"], {})[f"{name}/layer_{row['layer']:02d}"] = row["value_mean"]
    return dict(sorted(history.items()))


def _media(wandb: Any, path: Path, record: Any) -> dict[str, Any]:
    media = {}
    for video in record.videos:
        key = f"{video.prompt_id}-s{video.seed}"
        for kind, name in (("sparse", video.preview), ("dense", video.dense_preview)):
            if name is not None:
                media[f"{kind}/{key}"] = wandb.Video(str(path / name), format="mp4")
    return media
