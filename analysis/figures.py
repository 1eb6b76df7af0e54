"""Figures for papers and the README, from measurement rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from analysis.remarks import NOT_MEASURED
from analysis.settings import knob_text
from analysis.summary import FORMATS, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panels of the atlas of heads: a quantity and its title.
ATLAS = {
    "head_choice": "temporal choices",
    "head_margin": "margin of the choice",
    "head_agreement": "agreement with oracle",
    "head_kept_mass": "mass kept",
    "head_relative_l2_error": "relative L2 error",
    "head_same_frame_mass": "mass on own frame",
    "head_same_position_mass": "mass on own place",
    "head_first_frame_mass": "mass on first frame",
    "head_text_mass": "mass on text",
    "head_entropy": "entropy",
}
# Of these the scale is the same in every atlas; that of the others ends at their greatest value.
_SHARES = ("head_choice", "head_margin", "head_agreement", "head_kept_mass")
_PANELS_PER_ROW = 5
# By Okabe and Ito: told apart by every kind of colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def quality_over_density(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = (".png", ".pdf"),
) -> list[Path]:
    """Draw one quality over the executed density, a line per method, bars for 95 % intervals, and write it.

    The noise floor is a dashed line; where none was measured, or other kernels' videos were identical, the figure says
    so. The runs that measured it are that line, and no points.

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
        ValueError: If no run has a number for ``quantity``.
    """
    from matplotlib.figure import Figure

    table = summary(measurements, runs, protocol=protocol)
    table = table[table[quantity].notna() & table["density_executed"].notna()]
    table = table[table[f"{quantity}_noise"] != "noise floor"]
    if table.empty:
        raise ValueError(f"quantity={quantity}, protocol={protocol}: no run below this folder has such a number")
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for color, (name, rows) in zip(_cycle(), _families(table), strict=False):
        rows = rows.sort_values("density_executed")
        ends = [rows[quantity] - rows[f"{quantity}_ci_low"], rows[f"{quantity}_ci_high"] - rows[quantity]]
        # A mean may lie outside of its interval by rounding, where all its values are equal.
        bars = [end.fillna(0.0).clip(lower=0.0) for end in ends]
        axes.errorbar(
            rows["density_executed"], rows[quantity], yerr=bars, label=name, color=color,
            marker="o", markersize=4.5, linewidth=1.4, capsize=2.5, elinewidth=1.0,
        )  # fmt: skip
    _draw_noise_floor(axes, table, quantity)
    axes.set_xlim(left=0)
    axes.set_xlabel("density executed (tiles of sparse calls)")
    axes.set_ylabel(f"{FORMATS[quantity][0]} against dense")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return save(figure, output, suffixes)


def head_atlas(
    measurements: pd.DataFrame,
    run_id: str,
    output: str | Path,
    *,
    across: Literal["head", "step"] = "head",
    suffixes: Iterable[str] = (".png", ".pdf"),
) -> list[Path]:
    """Draw what the heads of one run chose and where they look, a panel per quantity of ``ATLAS``, layers down.

    A cell is the mean over branches, videos and, of ``head`` and ``step``, the one that is not drawn; one that nothing
    was measured of is grey. There is no panel of text where none stands in self-attention. Under ``statistics=every``
    every call has the masses; else those of a sample are there, and the choices of every sparse call.

    Args:
        measurements: From `analysis.load.measurements`.
        run_id: The run.
        output: Path without a suffix.
        across: Whether heads or steps go from left to right.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        ValueError: If the run has none of these quantities.
    """
    from matplotlib.figure import Figure

    rows = measurements[measurements["run_id"].eq(run_id) & measurements["quantity"].isin(list(ATLAS))]
    rows = rows[rows["value"].notna()]
    if rows.empty:
        raise ValueError(f"run_id={run_id}: no run of this name below this folder has a number for {', '.join(ATLAS)}")
    greatest = rows.groupby("quantity")["value"].max()
    shown = [name for name in ATLAS if name in greatest and (name != "head_text_mass" or greatest[name] > 0)]
    cells = rows.groupby(["quantity", "layer", across])["value"].mean()
    layers, others = (range(int(rows[name].max()) + 1) for name in ("layer", across))
    columns = min(len(shown), _PANELS_PER_ROW)
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.3, 2.7 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, name in zip(panels, shown, strict=False):
        grid = cells[name].unstack(across).reindex(index=layers, columns=others).to_numpy(float)
        top = 1.0 if name in _SHARES else None
        image = axes.imshow(grid, aspect="auto", vmin=0.0, vmax=top, cmap="cividis", interpolation="nearest")
        axes.set_facecolor("0.85")
        axes.set_title(ATLAS[name], fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(integer=True, nbins=6)
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.9).ax.tick_params(labelsize=7)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return save(figure, output, suffixes)


def _draw_noise_floor(axes: Axes, table: pd.DataFrame, quantity: str) -> None:
    """Draw the noise floors of a summary's rows, and say which rows have none that could be drawn."""
    floors = table[["model", f"{quantity}_floor", f"{quantity}_floor_backend"]].drop_duplicates()
    words = []
    for model, value, backend in floors.itertuples(index=False, name=None):
        of_model = f", {model}" if table["model"].nunique() > 1 else ""
        if pd.isna(value):
            words.append(NOT_MEASURED.rstrip(".") + of_model)
        elif math.isinf(value):
            words.append(f"Noise floor: none, dense on {backend} is identical{of_model}")
        else:
            label = f"noise floor (dense on {backend}{of_model})"
            axes.axhline(value, color="0.35", linestyle="--", linewidth=1.0, label=label)
    if words:
        axes.set_title("\n".join(dict.fromkeys(words)), fontsize=7, color="0.35", loc="left")


def save(figure: Figure, output: str | Path, suffixes: Iterable[str]) -> list[Path]:
    """Write a figure in every format and return the files."""
    paths = [Path(f"{output}{suffix}") for suffix in suffixes]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date: equal records make equal files.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        figure.savefig(path, dpi=200, metadata=metadata)
    return paths


def _families(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows that differ in nothing but their density, under the name that they share."""
    knobs = table["knobs"].map(
        lambda all_: knob_text({k: v for k, v in all_.items() if k not in ("sparsity", "density")})
    )
    names = (table["method"].astype(str) + " " + knobs).str.strip()
    if table["model"].nunique() > 1:
        names = table["model"].astype(str) + " " + names
    if table["environment"].nunique() > 1:
        names += " [" + table["environment"] + "]"
    return list(table.groupby(names, sort=False))


def _cycle() -> Iterable[str]:
    while True:
        yield from _COLORS
