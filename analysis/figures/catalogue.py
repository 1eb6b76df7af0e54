"""All figures by name, and which runs each of them takes from a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis import figures
from analysis.figures.series import MissingRows
from analysis.figures.strips import present_videos_of, videos_of
from analysis.roofline import measured_against_floor
from analysis.summary import summary

# Of so many methods at most a model's strips are drawn.
_STRIPS = 3


class Records(NamedTuple):
    """The rows that figures are drawn from, and the quality that is looked at."""

    measurements: pd.DataFrame
    runs: pd.DataFrame
    quantity: str = "psnr_db"
    protocol: str = "standard"


# Writes one figure; takes its path without a suffix.
Draw = Callable[[Path], list[Path]]


def _quality(function: Callable[..., list[Path]]) -> Callable[[Records], dict[str, Draw]]:
    """Return what draws a figure of one quality."""
    name = function.__name__

    def one(records: Records) -> dict[str, Draw]:
        measurements, runs, quantity, protocol = records
        stem = "_".join([name, *([quantity] if quantity != "psnr_db" else [])])
        return {stem: partial(function, measurements, runs, quantity=quantity, protocol=protocol)}

    return one


def _plain(function: Callable[..., list[Path]]) -> Callable[[Records], dict[str, Draw]]:
    """Return what draws a figure that has no quality."""
    name = function.__name__
    return lambda records: {name: partial(function, records.measurements, records.runs)}


def _atlases(records: Records) -> dict[str, Draw]:
    """Return two atlases for each model, of the run that the most is known of: heads across, and steps across.

    A quantity counts first if half of all heads have it. Of those of which equally much is known, one of Sparse
    VideoGen.
    """
    rows = records.measurements
    whole = records.runs.loc[records.runs["status"] == "complete", "run_id"]
    rows = rows[rows["quantity"].isin(list(figures.ATLAS)) & rows["value"].notna() & rows["run_id"].isin(whole)]
    if rows.empty:
        raise MissingRows(
            "no complete run below this folder has a head_choice; python -m experiments.compare method=svg makes some"
        )
    by_run = rows.groupby("run_id", sort=False)
    choices = rows[rows["quantity"] == "head_choice"].groupby("run_id")["value"].nunique()
    heads = rows.drop_duplicates(["run_id", "quantity", "layer", "head"]).groupby(["run_id", "quantity"]).size()
    model_of = by_run["model"].first()
    models = heads.index.get_level_values("run_id").map(model_of)
    most = heads.groupby(models).transform("max")
    known = pd.DataFrame(
        {
            "model": model_of,
            "full": (2 * heads >= most).groupby("run_id").sum().reindex(by_run.groups),
            "quantities": by_run["quantity"].nunique(),
            "choices": choices.reindex(by_run.groups, fill_value=0),
            "is_svg": by_run["method"].first() == "svg",
            "rows": by_run.size(),
        }
    ).sort_values(["full", "quantities", "choices", "is_svg", "rows"], ascending=False, kind="stable")
    best = known.reset_index().drop_duplicates("model")
    return {
        f"head_atlas_{across}s_{row.model}": partial(
            figures.head_atlas, records.measurements, row.run_id, across=across
        )
        for row in best.itertuples()
        for across in ("head", "step")
    }


def _strips(records: Records) -> dict[str, Draw]:
    """Return strips for each model: of one run of each method, at one density if there are, that share a dense video.

    Where some runs' previews are in the folder, runs are chosen from these. The density is one that Sparse VideoGen
    has, then one of the most methods, then the sparsest.
    """
    table = summary(records.measurements, records.runs, pooled=False)
    table = table[(table["status"] == "complete") & (table["method"] != "dense")]
    table = table.assign(run=table["runs"].str[0], place=table["density_executed"].round(2))
    runs = records.runs.set_index("run_id", drop=False)
    jobs: dict[str, Draw] = {}
    for model, rows in table.groupby("model", sort=False):
        videos = {run: present_videos_of(runs.loc[run]) for run in rows["run"]}
        if not any(videos.values()):
            videos = {run: videos_of(runs.loc[run]) for run in rows["run"]}
        recorded = [run for run in rows["run"] if videos_of(runs.loc[run])]
        rows = rows[rows["run"].map(videos).map(bool)]
        chosen: list[str] = []
        shared: set[tuple[str, int, str | None]] = set()
        for run in _rivals(rows).drop_duplicates("method")["run"]:
            both = videos[run].keys() & shared if chosen else set(videos[run])
            if both and len(chosen) < _STRIPS:
                chosen, shared = [*chosen, run], both
        if chosen:
            jobs[f"video_strips_{model}"] = partial(figures.video_strips, *records[:2], chosen, others=recorded)
    if not jobs:
        raise MissingRows(
            "no sparse run below this folder has a preview video; python -m experiments.compare makes some"
        )
    return jobs


def _rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a model, those of the density that says the most first, and there Sparse VideoGen first."""
    of_place = rows.assign(is_svg=rows["method"] == "svg").groupby("place")
    known = pd.DataFrame({"is_svg": of_place["is_svg"].any(), "methods": of_place["method"].nunique()})
    # Places are in ascending order, and stay so where they are equal in both.
    places = known.sort_values(["is_svg", "methods"], ascending=False, kind="stable").index
    first = rows["place"].eq(places[0]) if len(places) else rows["place"].notna()
    order = pd.DataFrame({"is_other": ~first, "is_rival": rows["method"] != "svg", "place": rows["place"]})
    return rows.loc[order.sort_values(["is_other", "place", "is_rival"], kind="stable").index]


# Figure: from records to what draws it, by file name without a suffix. Raises `MissingRows`.
FIGURES: dict[str, Callable[[Records], dict[str, Draw]]] = {
    "quality_over_density": _quality(figures.quality_over_density),
    "speedup_over_density": _plain(figures.speedup_over_density),
    "quality_over_time": _quality(figures.quality_over_time),
    "quality_over_sampled_rows": _quality(figures.quality_over_sampled_rows),
    "quality_of_dense_part": _quality(figures.quality_of_dense_part),
    "precision_over_density": _quality(figures.precision_over_density),
    "head_atlas": _atlases,
    "step_parts": _plain(figures.step_parts),
    "measured_against_floor": _plain(measured_against_floor),
    "video_strips": _strips,
}
