"""The Pareto front of quality and time over all runs: what no other run beats in both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.patheffects import withStroke

from analysis.figures import look
from analysis.figures.floor import floor_notes, higher_is_better
from analysis.figures.series import DENSITY, MissingRows, busy_note, differing, drawable, is_timed, untimed_note
from analysis.settings import knob_text
from analysis.summary import FORMATS

_FRONT: dict[str, Any] = {"color": look.GREY, "linewidth": 1.0, "zorder": 1, "label": "front"}


@look.in_one_look
def quality_over_time(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    output: str | Path,
    *,
    quantity: str = "psnr_db",
    protocol: str = "standard",
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw one quality over the seconds of a generation, a panel for each model and machine, and join the front.

    The line is the best quality within a time; qualities that are printed alike are alike. The settings on the front
    are numbered from the fastest on and named above; a vertical line is the dense twin's time, and dense runs are no
    points: they are their own twins, or measured the noise floor. A setting of
    which fewer than half of the videos had the machine to themselves is left out; where that is so of most settings of
    a panel, it has no front.

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
        MissingRows: If no sparse run has both numbers, or none was timed on a quiet machine.
    """
    table, notes = drawable(measurements, runs, [quantity, "generation_s"], protocol=protocol, makes="experiment=grid")
    table = table[table["method"] != "dense"]
    if table.empty:
        raise MissingRows(
            f"quantity={quantity}, protocol={protocol}: no run below this folder has such a number and a time, save "
            "dense ones; python -m experiments.compare -m experiment=grid makes some"
        )
    notes.append(untimed_note(table, "Not drawn"))
    place = ["model", "environment"]
    asked = table.groupby(place).size()
    table = table[is_timed(table)]
    if table.empty:
        raise MissingRows(
            f"{notes[-1].lower().rstrip('.')}; run them again on a quiet one: "
            "python -m experiments.compare overwrite=true"
        )
    groups = list(table.groupby(place, sort=False))
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    fronts = [
        pareto_front(
            _printed(rows if 2 * len(rows) >= asked[names] else rows.iloc[:0], quantity), "generation_s", quantity
        )
        for names, rows in groups
    ]
    width = look.width_for(max(map(len, fronts))) if columns == 1 else look.PAGE
    figure = look.new_figure(width, 2.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    methods = sorted(set(table["method"]), key=lambda name: (name != "svg", name))
    looks = dict(zip(methods, look.styles(methods), strict=True))
    named = []
    for axes, ((model, environment), rows), front in zip(panels, groups, fronts, strict=False):
        of_method = dict(list(rows.groupby("method")))
        for method, points in ((name, of_method[name]) for name in looks if name in of_method):
            axes.plot(points["generation_s"], points[quantity], label=method, **looks[method] | {"linestyle": "none"})
        if len(front):
            axes.step(front["generation_s"], front[quantity], where="post", **_FRONT)
        if rows["dense_generation_s"].notna().any():
            twin = float(rows["dense_generation_s"].mean())
            axes.axvline(twin, color=look.GREY, linestyle="--", linewidth=1.0, label="dense twin's time")
        title = f"{model} [{environment}]" if table["environment"].nunique() > 1 else str(model)
        for number, (_, row) in enumerate(front.iterrows(), 1):
            at = (row["generation_s"], row[quantity])
            text = axes.annotate(str(number), at, (-5, 3), textcoords="offset points", ha="right", fontsize=7)
            # It is read on the line of the front and of the twin, too.
            text.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
        of_title = f" of {title}" if len(groups) > 1 else ""
        named.append(
            _named(f"Front{of_title}", front, rows)
            if len(front)
            else f"No front{of_title}: most settings are not drawn, and one of these may beat the others."
        )
        axes.set_title(title)
        axes.set_xlim(0, 1.08 * float(rows[["generation_s", "dense_generation_s"]].max(axis=None)))
        axes.margins(y=0.15)
        look.widen(axes)
        axes.set_xlabel("seconds of a generation")
        axes.set_ylabel(f"{FORMATS[quantity][0]} against dense")
        axes.grid()
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    look.add_legend(figure)
    look.add_notes(figure, [*named, *notes, busy_note(table), *floor_notes(table, quantity)])
    return look.save(figure, output, suffixes)


def pareto_front(rows: pd.DataFrame, seconds: str, quantity: str) -> pd.DataFrame:
    """Return the rows than which no other is both as fast and as good, and better in one; the fastest one first.

    Of rows that are equal in both, the first one stands for all.
    """
    sign = 1 if higher_is_better(quantity) else -1
    ordered = rows.assign(_good=sign * rows[quantity]).sort_values([seconds, "_good"], ascending=[True, False])
    best = ordered["_good"].cummax().shift()
    return ordered[best.isna() | (ordered["_good"] > best)].drop(columns="_good")


def _printed(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the rows with a quality as it is printed: further digits decide nothing."""
    return rows.assign(**{quantity: [float(FORMATS[quantity][1].format(value)) for value in rows[quantity]]})


def _named(words: str, front: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Return a sentence that names the settings on a front of rows; what all share stands once, before them."""
    own = {method: differing(group["knobs"]) | set(DENSITY) for method, group in rows.groupby("method")}
    facts = [
        {"": row["method"]} | {name: value for name, value in row["knobs"].items() if name in own[row["method"]]}
        for _, row in front.iterrows()
    ]
    shared = {name: value for name, value in facts[0].items() if all(fact.get(name) == value for fact in facts)}
    if len(facts) == 1:
        shared = {}
    texts = [_text({name: value for name, value in fact.items() if name not in shared}) for fact in facts]
    of_all = f" ({_text(shared)})" if shared else ""
    # A line does not end between a number and what it names.
    numbered = [f"{number}\N{NO-BREAK SPACE}{text}" for number, text in enumerate(texts, 1)]
    return f"{words}{of_all}: {', '.join(numbered)}."


def _text(facts: dict[str, Any]) -> str:
    """Return a method and knobs as a person would type them."""
    knobs = {name: value for name, value in facts.items() if name}
    return " ".join(filter(None, [facts.get("", ""), knob_text(knobs)]))
