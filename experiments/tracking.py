"""Copies a finished record to Weights & Biases, offline unless asked otherwise; nothing is read back from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments import tracked
from experiments.schema import TrackingConfig
from svg.results import RunRecord, read_measurements, read_run
from svg.video import beside, read_preview, write_preview

# What wandb shows in one table at most.
TABLE_ROWS = 200_000
# Of a histogram over heads.
BINS = 10
# Between two looks of wandb at the machine.
SAMPLING_S = 2.0


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


@contextmanager
def watched(tracking: TrackingConfig, path: Path, group: str | None) -> Iterator[Any]:
    """Let wandb watch the machine while the run of the folder ``path`` is made; ``publish`` takes what this yields.

    Yields None, and watches nothing, unless ``tracking.system_metrics`` asks for it.

    Raises:
        ValueError: If wandb refuses.
    """
    if tracking.mode == "off" or not tracking.system_metrics:
        yield None
        return
    run = _begin(tracking, path.parent, path.name, tracking.group or group, is_watched=True)
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


def publish(tracking: TrackingConfig, path: Path, run: Any = None) -> None:
    """Send the record in the folder ``path``; does nothing where tracking is off.

    Sent are the settings and tags, the mean of each quantity, the machine, every row, each video beside its dense twin,
    and for each step and layer the share of temporal heads, the means over heads of all that was measured of each, and
    histograms over the heads.

    Args:
        tracking: Where to.
        path: The run's folder.
        run: From ``watched``, which ends it; None: one that is begun and ended here.

    Raises:
        ValueError: If wandb refuses, for instance because the network is gone.
    """
    if tracking.mode == "off":
        return
    record = read_run(path)
    rows = read_measurements(path, record.measurements_sha256)
    config, tags = tracked.config_of(record, rows), tracked.tags_of(record, rows)
    if run is not None:
        run.config.update(config, allow_val_change=True)
        run.tags = tuple(tags)
        _log(run, path, record, rows)
        return
    group = tracking.group or tracked.group_of(record)
    try:
        run = _begin(tracking, path.parent, record.run_id, group, config=config, tags=tags)
    except ValueError as error:
        raise ValueError(
            f"{error}; the record in {path} is complete, send it with "
            f"python -m experiments.publish runs_dir={path.parent} run_id={path.name}"
        ) from error
    try:
        _log(run, path, record, rows)
    finally:
        run.finish()


def publish_sweep(tracking: TrackingConfig, group: str, paths: Sequence[Path]) -> None:
    """Send a table of a sweep, a row for each run in the folders ``paths``, as a run of its own in the sweep's group.

    Raises:
        ValueError: If wandb refuses.
    """
    if tracking.mode == "off" or not paths:
        return
    import wandb

    run = _begin(tracking, paths[0].parent, f"summary of {group}", group, job_type="summary", tags=["summary"])
    try:
        rows = [tracked.sweep_row(path) for path in paths]
        run.log({"sweep": wandb.Table(columns=list(tracked.SWEEP_COLUMNS), data=rows)})
        statuses = [row[tracked.SWEEP_COLUMNS.index("status")] for row in rows]
        run.summary.update({status: statuses.count(status) for status in ("complete", "failed", "damaged")})
    finally:
        run.finish()


def _begin(
    tracking: TrackingConfig, runs_dir: Path, name: str, group: str | None, is_watched: bool = False, **facts: Any
) -> Any:
    import wandb

    folder = Path(tracking.dir) if tracking.dir is not None else runs_dir / ".wandb"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"x_disable_stats": not is_watched, "x_stats_sampling_interval": SAMPLING_S}
    try:
        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            mode="online" if tracking.mode == "online" else "offline",
            dir=str(folder),
            name=name,
            group=group,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", **settings),
            **{"job_type": "run", **facts},
        )
    except wandb.errors.Error as error:
        why = " ".join(str(error).split())
        raise ValueError(f"tracking.mode={tracking.mode}: {why}") from error


def _log(run: Any, path: Path, record: RunRecord, rows: pa.Table) -> None:
    import wandb

    values = tracked.head_values(rows)
    for step, history in tracked.head_history(rows).items():
        heads = {
            f"{name}/heads": wandb.Histogram(np_histogram=np.histogram(found, bins=BINS, range=(0.0, 1.0)))
            for name, found in values.get(step, {}).items()
        }
        run.log(history | heads, step=step)
    of_heads = pc.is_valid(rows["head"])
    plain = rows.filter(pc.invert(pc.or_(of_heads, pc.is_in(rows["quantity"], pa.array(tracked.CALLS)))))
    run.log({"measurements": wandb.Table(dataframe=plain.to_pandas())})
    heads = rows.filter(of_heads)
    if len(heads):
        run.log({"heads": wandb.Table(dataframe=heads.slice(0, TABLE_ROWS).to_pandas())})
    left_out = {"head_rows_left_out": max(0, len(heads) - TABLE_ROWS)}
    run.summary.update(tracked.means(rows) | tracked.machine_of(record, rows) | left_out)
    with TemporaryDirectory() as folder:
        for number, video in enumerate(record.videos):
            clip = _clip(path, video, Path(folder, f"{number}.mp4"))
            if clip is not None:
                file, caption = clip
                key = f"video/{video.prompt_id}-s{video.seed}"
                run.log({key: wandb.Video(str(file), caption=caption, format="mp4")})


def _clip(path: Path, video: Any, file: Path) -> tuple[Path, str] | None:
    """Return a clip of a run's video, right of its dense twin where there is one, and what it shows; None: none."""
    if video.preview is None:
        return None
    if video.dense_preview is None:
        return path / video.preview, "sparse"
    write_preview(file, beside(read_preview(path / video.dense_preview), read_preview(path / video.preview)), video.fps)
    return file, "left dense, right sparse"
