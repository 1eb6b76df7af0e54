"""How many of the first steps and layers must stay dense: a heat map of quality."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.figures import look
from analysis.figures.floor import floor_notes
from analysis.figures.series import MissingRows, drawable, families, is_timed, settings_of, untimed_note
from analysis.settings import listed
from analysis.summary import FORMATS

_ACROSS, _DOWN = "first_times_fp", "first_layers_fp"
_MAKES = "experiment=dense_part"


@look.in_one_look
def quality_of_dense_part(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw one quality and the speed-up for each ``first_times_fp`` and ``first_layers_fp``, a panel per other setting.

    All panels share one scale; a cell that nobody ran, or that has no number, is grey. One of which fewer than half of
    the videos had the machine to themselves has no speed-up.

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
        MissingRows: If no two runs with such a quality differ in both settings and in nothing else.
    """
    found, notes = drawable(measurements, runs, [quantity], protocol=protocol, makes=_MAKES)
    for name in (_ACROSS, _DOWN):
        found[name] = settings_of(found, runs, name)
    found = found[found[[_ACROSS, _DOWN]].notna().all(axis=1)]
    panels = [
        (name, rows)
        for name, rows in families(found, (_ACROSS, _DOWN))
        if rows[_ACROSS].nunique() > 1 and rows[_DOWN].nunique() > 1
    ]
    if not panels:
        raise MissingRows(
            f"no runs below this folder differ in method.{_ACROSS} and method.{_DOWN} alone; "
            f"python -m experiments.compare -m {_MAKES} makes some"
        )
    drawn = pd.concat([rows for _, rows in panels])
    low, high = float(drawn[quantity].min()), float(drawn[quantity].max())
    cells = max(rows[_ACROSS].nunique() for _, rows in panels)
    columns = min(len(panels), max(1, int(look.PAGE / (0.55 * cells + 0.6))))
    lines = -(-len(panels) // columns)
    room = look.COLUMN - 1.2 if columns == 1 else (look.PAGE - 0.8) / columns - 0.4
    model = f"{drawn['model'].iloc[0]}, " if drawn["model"].nunique() == 1 else ""
    titles = [look.fold(f"{model}{name}, density {_densities(rows)}", room) for name, rows in panels]
    height = 0.36 * max(rows[_DOWN].nunique() for _, rows in panels) + 0.6
    height += 0.15 * max(title.count("\n") + 1 for title in titles)
    figure = look.new_figure(look.COLUMN if columns == 1 else look.PAGE, height * lines + 0.2)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, title, (_, rows) in zip(grid, titles, panels, strict=False):
        table = rows.pivot_table(index=_DOWN, columns=_ACROSS, values=quantity, aggfunc="mean")
        timed = rows.assign(speedup=rows["speedup"].where(is_timed(rows)))
        speed = timed.pivot_table(index=_DOWN, columns=_ACROSS, values="speedup", aggfunc="mean")
        image = axes.imshow(table.to_numpy(float), vmin=low, vmax=high, aspect="auto")
        axes.set_facecolor(look.PALE)
        axes.spines[:].set_visible(False)
        for (down, across), value in table.stack().dropna().items():
            text = FORMATS[quantity][1].format(value)
            if down in speed.index and across in speed.columns and pd.notna(speed.at[down, across]):
                text += f"\n{speed.at[down, across]:.2f}×"
            at = (table.columns.get_loc(across), table.index.get_loc(down))
            is_dark = value < low + 0.55 * (high - low)
            axes.text(*at, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "black")
        axes.set_xticks(range(len(table.columns)), [f"{value:g}" for value in table.columns])
        axes.set_yticks(range(len(table.index)), [f"{value:g}" for value in table.index])
        axes.set_title(title, fontsize=7)
        axes.set_xlabel(f"{_ACROSS}, share of the steps")
        axes.set_ylabel(f"{_DOWN}, share of the layers")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=list(grid), shrink=0.9, label=f"{FORMATS[quantity][0]} against dense")
    bar.outline.set_visible(False)
    words = f"In a cell: {FORMATS[quantity][0]}, and the speed-up of the generation where it was timed."
    untimed = untimed_note(drawn, "No speed-up")
    look.add_notes(figure, [words, *notes, untimed, *floor_notes(drawn, quantity)])
    return look.save(figure, output, suffixes)


def _densities(rows: pd.DataFrame) -> str:
    return listed(f"{density:.2f}" for density in sorted(rows["density_executed"].dropna()))
