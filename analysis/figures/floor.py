"""The noise floor in figures of quality: dense attention on another kernel, drawn, shaded beyond, or said."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.look import GREY, PALE
from analysis.remarks import NOT_MEASURED, floor_number
from analysis.summary import FORMATS

# A floor is left out of the axis where it is further from the points than so many times their extent.
_FAR = 0.5
# Height of a line of small text, in points, and as a share of an axis.
_POINTS, _SHARE = 9.0, 0.08


def draw_noise_floor(axes: Axes, table: pd.DataFrame, quantity: str) -> list[str]:
    """Shade what is no further from dense than dense on another kernel; return what there is to say of floors.

    A dashed line is where noise begins, one for each model and machine that has a floor; shaded is what is noise by all
    of them. One that is far from all points would squeeze these: a text at the edge of the axis says where it is. Where
    none was measured, or the other kernel's videos were identical, there is nothing to shade.
    """
    is_up = higher_is_better(quantity)
    low, high = _extent(table, quantity)
    near: dict[str, float] = {}
    far: list[tuple[float, str, str]] = []
    for value, backend, of_model in dict.fromkeys(_floors(table, quantity)):
        off = value - high if is_up else low - value
        if math.isfinite(value) and off > _FAR * (high - low) > 0:
            far.append((value, backend, of_model))
        elif math.isfinite(value):
            near[_label(backend, of_model)] = value
    for label, value in near.items():
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.0, label=label)
    if near and not far:
        edges = [*axes.get_ylim(), *near.values()]
        end = max(edges) + 0.08 * (max(edges) - min(edges)) if is_up else min(0.0, *edges)
        start = max(near.values()) if is_up else min(near.values())
        axes.axhspan(start, end, color=PALE, alpha=0.6, linewidth=0, zorder=0)
        axes.set_ylim(min(end, *edges), max(end, *edges))
    _point_to(axes, far, quantity)
    return [*(_sentence(quantity, *floor) for floor in far), *_said(table, quantity)]


def _point_to(axes: Axes, far: list[tuple[float, str, str]], quantity: str) -> None:
    """Write where floors are that lie beyond an axis, at its edge on their side, where it gets room without points."""
    is_up = higher_is_better(quantity)
    arrow, side, sign = ("↑", "above", -1) if is_up else ("↓", "below", 1)
    unit = " dB" if quantity.endswith("_db") else ""
    bottom, top = axes.get_ylim()
    room = _SHARE * len(far) * (top - bottom)
    axes.set_ylim(bottom - room * (not is_up), top + room * is_up)
    for line, (value, _, of_model) in enumerate(far):
        axes.annotate(
            f"{arrow} noise floor{of_model} {floor_number(quantity, value)}{unit}, {side}",
            (0, int(is_up)),
            (4, sign * (2 + line * _POINTS)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top" if is_up else "bottom",
            fontsize=7,
            color=GREY,
            # A line of the grid does not strike it through.
            bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
        )


def floor_notes(table: pd.DataFrame, quantity: str) -> list[str]:
    """Return a sentence on each noise floor of a table, for figures in which it is not drawn."""
    known = [_sentence(quantity, *floor) for floor in _floors(table, quantity) if math.isfinite(floor[0])]
    return [*dict.fromkeys(known), *_said(table, quantity)]


def higher_is_better(quantity: str) -> bool:
    """Return whether more of a quality of `analysis.summary.QUALITY` is better: of all but distances."""
    return not quantity.startswith("lpips")


def _floors(table: pd.DataFrame, quantity: str) -> list[tuple[float, str, str]]:
    """Return the value of each floor of a table, NaN where none was measured, its backend, and whose it is."""
    columns = ["model", "environment", f"{quantity}_floor", f"{quantity}_floor_backend"]
    several = table["model"].nunique() > 1
    rows = table[columns].drop_duplicates().itertuples(index=False, name=None)
    return [(value, backend, f", {model}" if several else "") for model, _, value, backend in rows]


def _label(backend: str, of_model: str) -> str:
    """Return what a legend calls a floor."""
    return f"noise floor (dense on {backend}{of_model})"


def _sentence(quantity: str, value: float, backend: str, of_model: str) -> str:
    """Return a floor in words."""
    # No line begins with the number.
    number = f"{FORMATS[quantity][0]} {floor_number(quantity, value)}".replace(" ", "\N{NO-BREAK SPACE}")
    text = f"{_label(backend, of_model)}: {number}."
    return text[0].upper() + text[1:]


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
