"""The atlas of a run's heads: what they chose and where they look, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.figures import look
from analysis.figures.series import MissingRows, listed_note

# Panels: a quantity and its title.
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
# Of these the scale is the same in every atlas; that of the others ends at the greatest of their cells.
_SHARES = ("head_choice", "head_margin", "head_agreement", "head_kept_mass")
_PANELS_PER_ROW = 5


@look.in_one_look
def head_atlas(
    measurements: pd.DataFrame,
    run_id: str,
    output: str | Path,
    *,
    across: Literal["head", "step"] = "head",
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw what the heads of one run chose and where they look, a panel per quantity of ``ATLAS``, layers down.

    A cell is the mean over branches, videos and, of ``head`` and ``step``, the one that is not drawn; one that nothing
    was measured of is grey. There is no panel of text where none stands in self-attention. Under ``statistics=every``
    every call has the masses; else those of a sample are there, and the choices of every sparse call. A panel of which
    most cells would be grey is left out, and said to be, where another one is full.

    Args:
        measurements: From `analysis.load.measurements`.
        run_id: The run.
        output: Path without a suffix.
        across: Whether heads or steps go from left to right.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If the run has none of these quantities.
    """
    rows = measurements[measurements["run_id"].eq(run_id) & measurements["quantity"].isin(list(ATLAS))]
    rows = rows[rows["value"].notna()]
    if rows.empty:
        raise MissingRows(f"run_id={run_id}: no run of this name below this folder has a number for {', '.join(ATLAS)}")
    greatest = rows.groupby("quantity")["value"].max()
    shown = [name for name in ATLAS if name in greatest and (name != "head_text_mass" or greatest[name] > 0)]
    cells = rows.groupby(["quantity", "layer", across])["value"].mean()
    layers, others = (range(int(rows[name].max()) + 1) for name in ("layer", across))
    full = [name for name in shown if 2 * len(cells[name]) >= len(layers) * len(others)]
    grey = [ATLAS[name] for name in shown if full and name not in full]
    shown = full or shown
    columns = min(len(shown), _PANELS_PER_ROW)
    lines = -(-len(shown) // columns)
    figure = look.new_figure(look.COLUMN if columns == 1 else look.PAGE, 2.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, name in zip(panels, shown, strict=False):
        grid = cells[name].unstack(across).reindex(index=layers, columns=others).to_numpy(float)
        top = 1.0 if name in _SHARES else cells[name].max() or 1.0
        image = axes.imshow(grid, aspect="auto", vmin=0.0, vmax=top, interpolation="nearest")
        axes.set_facecolor(look.PALE)
        axes.set_title(ATLAS[name], fontsize=7)
        axes.set_xlabel(across)
        axes.locator_params(integer=True, nbins=6)
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.9)
    for axes in panels[::columns]:
        axes.set_ylabel("layer")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    own = measurements[measurements["run_id"].eq(run_id)]
    density = own.loc[own["quantity"].eq("density_executed") & own["protocol"].eq("tile"), "value"].mean()
    of_density = "" if pd.isna(density) else f", density {density:.2f}"
    words = f"{own['model'].iloc[0]}, {own['method'].iloc[0]}{of_density}. Grey: not measured."
    left_out = listed_note(
        f"Measured of fewer than half of the {across}s and layers, so not drawn", grey, most=len(grey)
    )
    look.add_notes(figure, [words, left_out])
    return look.save(figure, output, suffixes)
