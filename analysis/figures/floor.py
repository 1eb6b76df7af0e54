"""The noise floor in figures of quality: dense attention on another kernel, drawn, shaded beyond, or said."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.look import GREY, PALE
from analysis.remarks import NOT_MEASURED, floor_number
from analysis.summary import FORMATS

# The floor stands on an axis of its own where it is further from the points than so many times their extent.
_FAR = 1.0
# Half the range of that axis, as a share of the points' extent, and its height beside that of the points.
_AROUND, _HEIGHT = 0.15, 0.22


def quality_axes(figure: Figure, table: pd.DataFrame, quantity: str) -> tuple[Axes, Axes]:
    """Return the axes of a figure for points of a quality and for its noise floor, the same ones where it is near.

    Where it is far above, its axes are a strip over the others, with breaks between the two.
    """
    low, high = _extent(table, quantity)
    values = _drawn(table, quantity).values()
    if not values or low == high or min(values) - high <= _FAR * (high - low):
        axes = figure.subplots()
        return axes, axes
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(_HEIGHT, 1))
    half = _AROUND * (high - low)
    above.set_ylim(min(values) - half, max(values) + half)
    above.spines["bottom"].set_visible(False)
    above.tick_params(axis="x", length=0)
    above.locator_params(axis="y", nbins=1)
    break_mark = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 6, "linestyle": "none", "color": "black", "mew": 0.7}
    above.plot(0, 0, transform=above.transAxes, clip_on=False, **break_mark)
    axes.plot(0, 1, transform=axes.transAxes, clip_on=False, **break_mark)
    return axes, above


def draw_noise_floor(axes: Axes, table: pd.DataFrame, quantity: str) -> list[str]:
    """Shade what is no further from dense than dense on another kernel; return what there is to say of floors.

    A dashed line is where noise begins, one for each model and machine that has a floor; shaded is what is noise by all
    of them. Where none was measured, or the other kernel's videos were identical, there is nothing to shade.
    """
    values = _drawn(table, quantity)
    for label, value in values.items():
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.0, label=label)
    if values:
        edges = [*axes.get_ylim(), *values.values()]
        is_up = higher_is_better(quantity)
        far = max(edges) + 0.08 * (max(edges) - min(edges)) if is_up else min(0.0, *edges)
        near = max(values.values()) if is_up else min(values.values())
        axes.axhspan(near, far, color=PALE, alpha=0.6, linewidth=0, zorder=0)
        axes.set_ylim(min(far, *edges), max(far, *edges))
    return _said(table, quantity)


def floor_notes(table: pd.DataFrame, quantity: str) -> list[str]:
    """Return a sentence on each noise floor of a table, for figures in which it is not drawn."""
    name = FORMATS[quantity][0]
    drawn = [f"{label}: {name} {floor_number(quantity, value)}." for label, value in _drawn(table, quantity).items()]
    return [*(text[0].upper() + text[1:] for text in drawn), *_said(table, quantity)]


def higher_is_better(quantity: str) -> bool:
    """Return whether more of a quality of `analysis.summary.QUALITY` is better: of all but distances."""
    return not quantity.startswith("lpips")


def _floors(table: pd.DataFrame, quantity: str) -> list[tuple[float, str, str]]:
    """Return the value of each floor of a table, NaN where none was measured, its backend, and whose it is."""
    columns = ["model", "environment", f"{quantity}_floor", f"{quantity}_floor_backend"]
    several = table["model"].nunique() > 1
    rows = table[columns].drop_duplicates().itertuples(index=False, name=None)
    return [(value, backend, f", {model}" if several else "") for model, _, value, backend in rows]


def _drawn(table: pd.DataFrame, quantity: str) -> dict[str, float]:
    """Return the floors that are numbers, by what a legend calls them."""
    return {
        f"noise floor (dense on {backend}{of_model})": value
        for value, backend, of_model in _floors(table, quantity)
        if math.isfinite(value)
    }


def _said(table: pd.DataFrame, quantity: str) -> list[str]:
    """Return what there is to say of the floors that are no numbers."""
    notes = [
        f"Noise floor: none, dense on {backend} is identical{of_model}"
        if math.isinf(value)
        else NOT_MEASURED.rstrip(".") + of_model
        for value, backend, of_model in _floors(table, quantity)
        if not math.isfinite(value)
    ]
    return list(dict.fromkeys(notes))


def _extent(table: pd.DataFrame, quantity: str) -> tuple[float, float]:
    """Return the least and the greatest value of a quality, intervals included."""
    values = table[[quantity, f"{quantity}_ci_low", f"{quantity}_ci_high"]]
    return float(values.min(axis=None)), float(values.max(axis=None))
