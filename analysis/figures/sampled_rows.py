"""How many sampled queries the choice of a head's pattern needs: what fewer cost, head by head and in the video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.figures import look
from analysis.figures.floor import floor_notes
from analysis.figures.series import (
    MissingRows,
    draw_curves,
    drawable,
    families,
    interval_note,
    means_of,
    settings_of,
)
from analysis.summary import FORMATS

_ROWS = "num_sampled_rows"
_MAKES = "experiment=sampled_rows"
# What needs no sample: the choice from all queries, and by coin.
_LINES = {"oracle_choice": ":", "random_choice": "-."}


@look.in_one_look
def quality_over_sampled_rows(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw the heads' regret and one quality over the sampled rows, and lines where other choices are.

    Dotted is a choice from all queries, dash-dotted one by coin.

    Regret is what the palette's best pattern would save of the mean squared error of a head's output, the mean over
    heads, layers and steps.

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
        MissingRows: If no two runs with such a quality differ in ``method.num_sampled_rows``.
    """
    found, notes = drawable(measurements, runs, [quantity], protocol=protocol, makes=_MAKES)
    found[_ROWS] = settings_of(found, runs, _ROWS)
    found = found.join(means_of(measurements, found, "head_regret"))
    series = [(name, rows) for name, rows in families(found, (_ROWS,)) if rows[_ROWS].nunique() > 1]
    if not series:
        raise MissingRows(
            f"no two runs below this folder differ in method.{_ROWS} alone; "
            f"python -m experiments.compare -m {_MAKES} makes some"
        )
    drawn = pd.concat([rows for _, rows in series])
    panels = {quantity: f"{FORMATS[quantity][0]} against dense"}
    if drawn["head_regret"].notna().any():
        panels = {"head_regret": "regret (mean squared error)"} | panels
    else:
        notes.append("No regret: these runs have no head_regret; statistics=sparse measures it.")
    others = found[found["method"].isin(list(_LINES)) & found["model"].isin(drawn["model"])]
    figure = look.new_figure(look.PAGE if len(panels) > 1 else look.width_for(len(series)), 2.2)
    for axes, (name, heading) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        draw_curves(axes, _ROWS, name, series, apart="factor")
        for _, row in others[others[name].notna()].iterrows():
            line = {"linestyle": _LINES[row["method"]], "color": look.styles([row["method"]])[0]["color"]}
            axes.axhline(row[name], label=row["name"], **line)
        axes.set_xscale("log", base=2)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        counts = sorted(drawn[_ROWS].unique())
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("sampled rows per attention call")
        axes.set_ylabel(heading)
        axes.grid()
    look.add_legend(figure)
    if drawn["model"].nunique() == 1:
        notes.insert(0, f"Model {drawn['model'].iloc[0]}.")
    look.add_notes(figure, [*notes, *floor_notes(drawn, quantity), interval_note(drawn, quantity)])
    return look.save(figure, output, suffixes)
