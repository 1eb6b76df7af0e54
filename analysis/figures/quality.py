"""How good the sparse videos are, over how much of the attention was computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.figures.floor import draw_noise_floor
from analysis.figures.look import COLUMN, SUFFIXES, add_legend, add_notes, in_one_look, new_figure, save, width_for
from analysis.figures.series import (
    SIDE_BY_SIDE,
    SPREAD,
    MissingRows,
    draw_curves,
    drawable,
    families,
    interval_note,
    over_density,
)
from analysis.summary import FORMATS


@in_one_look
def quality_over_density(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = SUFFIXES,
) -> list[Path]:
    """Draw one quality over the executed density, a line per method, bars for 95 % intervals, and write it.

    What is no further from dense than dense attention on another kernel, the noise floor, is shaded; where none was
    measured, or other kernels' videos were identical, the figure says so. Where it is far from all points, an arrow at
    the edge of the axis names it. Dense runs are no points: they are their own twins, or measured the floor.

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
        MissingRows: If no run has a number for ``quantity``, or no two of these differ in density alone.
    """
    table, notes = drawable(measurements, runs, [quantity, "density_executed"], protocol=protocol)
    table = table[table["method"] != "dense"]
    if table.empty:
        raise MissingRows(
            f"quantity={quantity}, protocol={protocol}: no run below this folder has such a number, save dense ones; "
            f"python -m experiments.compare -m experiment=sparsity makes some"
        )
    table, others = over_density(table, "quality_over_time, quality_over_sampled_rows or quality_of_dense_part")
    notes += others
    series = families(table)
    figure = new_figure(width_for(len(series)), 2.2 if width_for(len(series)) == COLUMN else 2.9)
    axes = figure.subplots()
    if draw_curves(axes, "density_executed", quantity, series, apart="sum"):
        notes.append(SIDE_BY_SIDE)
    notes += [*draw_noise_floor(axes, table, quantity), interval_note(table, quantity)]
    # Points that were moved aside stay whole.
    axes.set_xlim(0, 1.1 * float(table["density_executed"].max()) + SPREAD / 2)
    axes.set_xlabel("density executed (tiles of sparse calls)")
    axes.set_ylabel(f"{FORMATS[quantity][0]} against dense")
    if table["model"].nunique() == 1:
        axes.set_title(table["model"].iloc[0])
    axes.grid()
    add_legend(figure)
    add_notes(figure, notes)
    return save(figure, output, suffixes)
