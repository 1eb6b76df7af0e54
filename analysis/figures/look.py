"""The one look of all figures: sizes, colours, markers, legends, notes, and how they are written."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from analysis.files import write_whole

# Widths in inches: a column of a paper with two, and a page.
COLUMN, PAGE = 3.3, 6.8
# Height in inches that bars may take of a page of A4; legend and notes stand outside of it.
BARS = 7.4
SUFFIXES = (".png", ".pdf")
GREY, PALE = "0.35", "0.87"
# By Okabe and Ito: told apart by every kind of colour vision; their yellow is too pale for a line on paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One more or less than colours, so that no two of the first 56 series share both.
MARKERS = "os^DvPX<"
# Each has the look of its place in every figure.
METHODS = (
    *("svg", "one_pattern_spatial", "one_pattern_temporal", "oracle_choice", "random_choice", "oracle_blocks"),
    *("random_blocks", "random_blocks_pure", "cached_choice", "svg_upstream"),
)
# Small text, and how many of its characters an inch and lines an inch hold.
_SMALL, _CHARACTERS, _LINES = 7.0, 18.0, 7.2
# Least range of an axis of qualities, as a share of the greatest: what differs by less stands side by side.
_RANGE = 0.005
# Of a logarithmic axis in a figure of two panels: labels that fit, were they equally far apart.
_TICKS = 16
# So many powers of ten have others between them.
_POWERS = 3

# A figure is the same whatever settings of matplotlib a user has.
in_one_look = matplotlib.style.context(
    [
        "default",
        {
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": _SMALL,
            "ytick.labelsize": _SMALL,
            "legend.fontsize": _SMALL,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            # A tick is the number itself: what it lacks of a number above the axis is overlooked.
            "axes.formatter.useoffset": False,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.3,
            "lines.markersize": 6,
            "hatch.linewidth": 0.5,
            "image.cmap": "cividis",
            # Text stays text: it can be searched, and edited for a paper.
            "pdf.fonttype": 42,
            "savefig.dpi": 200,
        },
    ]
)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; `add_legend` and `add_notes` make it higher by what they take."""
    return Figure(figsize=(width, height), layout="constrained")


def style(index: int) -> dict[str, Any]:
    """Return colour, marker and line of series number ``index``, from 0; a colour that comes again is dashed."""
    line = "-" if index < len(COLORS) else "--"
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}


def styles(methods: Iterable[str]) -> list[dict[str, Any]]:
    """Return the look of each series by its method.

    The first series of one of ``METHODS`` looks alike in every figure; further ones, and those of other methods, have
    looks that are none of these.
    """
    free = itertools.count(len(METHODS))
    seen: set[str] = set()
    found = []
    for method in methods:
        is_own = method in METHODS and method not in seen
        found.append(style(METHODS.index(method) if is_own else next(free)))
        seen.add(method)
    return found


def width_for(names: int) -> float:
    """Return the width of a figure of one panel and so many series: a column's, or a page's to tell many apart."""
    return COLUMN if names <= 4 else PAGE


def add_legend(figure: Figure) -> None:
    """Write the names of all panels' series below them, each once, in as many columns as fit."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            # The line of a series says enough; its intervals would crowd the legend.
            found.setdefault(name, handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle)
    width = figure.get_figwidth()
    names = [fold(name, width - 0.5) for name in found]
    longest = max(len(line) for name in names for line in name.splitlines())
    columns = max(1, min(len(names), int(width / (longest / _CHARACTERS + 0.5))))
    figure.legend(list(found.values()), names, loc="outside lower center", ncols=columns, handlelength=1.8)
    rows = -(-sum(name.count("\n") + 1 for name in names) // columns)
    _grow(figure, (rows + 1) / _LINES)


def fold(text: str, inches: float) -> str:
    """Return a text in lines of at most so many inches of small type."""
    # Names of runs have hyphens, which are no place to break them.
    return textwrap.fill(text, max(8, int(inches * _CHARACTERS)), break_on_hyphens=False)


def add_notes(figure: Figure, notes: Iterable[str]) -> None:
    """Write sentences in small grey text above the panels."""
    lines = [line for note in notes if note for line in fold(note, figure.get_figwidth() - 0.1).splitlines()]
    if lines:
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=_SMALL, color=GREY, parse_math=False)
        _grow(figure, (len(lines) + 0.5) / _LINES)


def paged(heights: Sequence[float]) -> list[slice]:
    """Return which parts, by their heights in inches, stand on each page, in their order; a page has at least one."""
    pages, start, taken = [], 0, 0.0
    for place, height in enumerate(heights):
        if place > start and taken + height > BARS:
            pages.append(slice(start, place))
            start, taken = place, 0.0
        taken += height
    return [*pages, slice(start, len(heights))]


def part_text(page: int, pages: int) -> str:
    """Return what page number ``page``, from 1, of a figure of bars says of itself; nothing where it is the only one.

    Each page's bars have its width to themselves: those of a short step would be lines beside those of a long one.
    """
    return f"Part {page} of {pages}; the axis of each is its own." if pages > 1 else ""


def page_path(output: str | Path, page: int, pages: int) -> Path:
    """Return the path without a suffix of page number ``page``, from 1: a number follows where there are several."""
    return Path(f"{output}_{page}" if pages > 1 else output)


def widen(axes: Axes) -> None:
    """Let the vertical axis reach far enough that a difference too small to matter looks small."""
    low, high = axes.get_ylim()
    lacking = _RANGE * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def plain_log_ticks(axes: Axes, which: str, ticks: Sequence[float]) -> None:
    """Make an axis logarithmic (``"x"`` or ``"y"``), with those of the ticks that it has room for, as plain numbers.

    Args:
        axes: Whose axis.
        which: ``"x"`` or ``"y"``.
        ticks: In ascending order; of those that are too near each other, the greatest one stays. Where the axis reaches
            over many powers of ten that are among them, only these stay: they are evenly apart.
    """
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    apart = (high / low) ** (1 / _TICKS)
    powers = [tick for tick in ticks if low <= tick <= high and f"{tick:e}".startswith("1.000000e")]
    shown: list[float] = []
    for tick in reversed(powers if len(powers) > _POWERS else ticks):
        if low <= tick <= high and (not shown or tick * apart <= shown[-1]):
            shown.append(tick)
    axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_ticks([], minor=True)


def save(figure: Figure, output: str | Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """Write a figure in every format and return the files; each is drawn whole before it is written.

    Args:
        figure: What to write.
        output: Path without a suffix.
        suffixes: File formats.
    """
    paths = [Path(f"{output}{suffix}") for suffix in suffixes]
    for path in paths:
        # No date: equal records make equal files.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], metadata=metadata)
        write_whole(path, drawn.getvalue())
    return paths


def _grow(figure: Figure, inches: float) -> None:
    figure.set_figheight(figure.get_figheight() + inches)
