"""What FP8 attention costs and saves: the error of a call, the quality of the video and the speed over the density."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.figures import look
from analysis.figures.floor import floor_notes
from analysis.figures.series import (
    DENSITY,
    SIDE_BY_SIDE,
    MissingRows,
    draw_curves,
    drawable,
    families,
    interval_note,
    is_timed,
    means_of,
    texts_of,
    untimed_note,
)
from analysis.summary import FORMATS

_ERROR = "check_relative_error"
_MAKES = "experiment=fp8"
# Computes in float32 whatever it models.
_MODEL = "reference"
_ERRORS = (1e-6, 1e-5, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@look.in_one_look
def precision_over_density(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw the error of an attention call, one quality and the speed-up of attention over the executed density.

    A line is a method and a precision. The error is that of the warm-up's checked calls, against float64. The model of
    FP8 that runs anywhere, ``backend=reference``, says nothing of speed: its runs have no points there.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        output: Path without a suffix.
        quantity: A quality of `analysis.summary.QUALITY`.
        protocol: Its protocol.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If no two runs with such a quality differ in ``backend.precision``.
    """
    found, notes = drawable(measurements, runs, [quantity, "density_executed"], protocol=protocol, makes=_MAKES)
    found["precision"] = texts_of(found, runs, "backend.precision")
    found = found[found["precision"].notna() & (found["method"] != "dense")]
    has_both = found.groupby(["model", "method"])["precision"].transform("nunique") > 1
    found = found[has_both]
    if found.empty:
        raise MissingRows(
            f"no two runs below this folder differ in backend.precision; "
            f"python -m experiments.compare -m {_MAKES} makes some"
        )
    found = found.join(means_of(measurements, found, _ERROR))
    has_speed = ~found["backend"].str.startswith(_MODEL) & found["attention_speedup"].notna()
    notes.append(untimed_note(found[has_speed], "No speed-up"))
    found.loc[~(has_speed & is_timed(found)), "attention_speedup"] = float("nan")
    panels = {
        _ERROR: "relative error of a call",
        quantity: f"{FORMATS[quantity][0]} against dense",
        "attention_speedup": "speed-up of attention,\nsparse calls",
    }
    shown = {name: heading for name, heading in panels.items() if found[name].notna().any()}
    if not has_speed.any():
        notes.append("FP8 is modelled by backend=reference, which says nothing of speed.")
    series = families(found, (*DENSITY, "backend.precision"))
    is_moved = False
    figure = look.new_figure(look.PAGE if len(shown) > 1 else look.width_for(len(series)), 2.2)
    for axes, (name, heading) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        is_moved |= draw_curves(axes, "density_executed", name, series, apart="sum")
        axes.set_xlabel("density executed\n(tiles of sparse calls)")
        axes.set_xlim(0, 1.1 * float(found["density_executed"].max()))
        if name == _ERROR:
            axes.set_yscale("log")
            look.plain_log_ticks(axes, "y", _ERRORS)
        axes.set_ylabel(heading)
        axes.grid()
    look.add_legend(figure)
    if found["model"].nunique() == 1:
        notes.insert(0, f"Model {found['model'].iloc[0]}.")
    if is_moved:
        notes.append(SIDE_BY_SIDE)
    look.add_notes(figure, [*notes, *floor_notes(found, quantity), interval_note(found, quantity)])
    return look.save(figure, output, suffixes)
