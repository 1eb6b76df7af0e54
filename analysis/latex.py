"""Writes a table as LaTeX: in letters that fit its page, sideways where it is wide, over pages where it is long."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.writer import Table

# What LaTeX reads as something else, and signs that not every one of its fonts has.
_SIGNS = {character: f"\\{character}" for character in "&%$#{}"}
_SIGNS |= {"_": r"\_", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SIGNS |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}"}
_SIGNS |= {"–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\dots{}", "™": r"\texttrademark{}", "\u2010": "-"}
_SIGNS |= {"‘": "`", "’": "'", "“": "``", "”": "''", "®": r"\textregistered{}", "©": r"\textcopyright{}", "§": r"\S{}"}
_SIGNS |= {"ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "ł": r"\l{}"}
_SIGNS |= {"Ł": r"\L{}", "ı": r"\i{}", "\u00a0": "~", "\u202f": "~"}
_MATH = {"×": "times", "±": "pm", "∞": "infty", "≤": "leq", "≥": "geq", "≈": "approx", "→": "rightarrow", "·": "cdot"}
_MATH |= {"←": "leftarrow", "≠": "neq", "√": "surd", "∑": "sum", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega"}
_MATH |= {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "θ": "theta", "λ": "lambda", "μ": "mu", "µ": "mu"}
_MATH |= {"π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega", "ε": "epsilon", "η": "eta"}
_SIGNS |= {sign: rf"$\{name}$" for sign, name in _MATH.items()}
_SIGNS |= {"−": "$-$", "°": r"$^\circ$", "²": "$^2$", "³": "$^3$"}
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0327", "`'^~=u.\"rHvdc", strict=True)
)

# Text of an article on a page in points, the narrower of A4 and letter, and how many points are a sign's width, a
# line's height and the space between columns in each size of letters.
_WIDTH, _HEIGHT = 345, 550
_SIZES = {
    "normalsize": (5.0, 12.0, 12.0),
    "small": (4.65, 11.0, 8.0),
    "footnotesize": (4.3, 9.5, 8.0),
    "scriptsize": (4.05, 8.0, 6.0),
    "tiny": (3.4, 6.0, 4.0),
}
# A column of texts is not made narrower than these signs, nor are texts broken in more lines before a table is turned.
_NARROWEST, _MOST_LINES = 16, 3
# What is said in the place of numbers is as wide as these signs, where that is no wider than the page.
_SAID = 50
# How wide signs are that are not as wide as a digit, in digits.
_WIDE = dict.fromkeys("×±−+=<>∞%mwMW@", 1.55) | dict.fromkeys(" ijlftr.,:;'|[]()/!-_", 0.65)
# Where a line may end: after a space, and within names after these.
_PART = re.compile(r"(?<=[ _])|(?<=[a-zA-Z][.=/])(?=[a-zA-Z\[])")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a table stands on its page.

    Args:
        size: Of its letters, one of ``_SIZES``.
        is_turned: Whether it stands sideways.
        widths: Of its columns, in digits.
        wrapped: Which columns break their texts.
    """

    size: str
    is_turned: bool
    widths: tuple[float, ...]
    wrapped: frozenset[int] = frozenset()

    @property
    def line(self) -> float:
        """Points that a line has."""
        return _HEIGHT if self.is_turned else _WIDTH

    @property
    def is_too_wide(self) -> bool:
        """Whether its columns are wider than its line."""
        sign, _, between = _SIZES[self.size]
        return sign * sum(self.widths) + between * len(self.widths) > self.line

    @property
    def room(self) -> float:
        """How wide a text is that stands in the place of all numbers, in digits."""
        sign, _, between = _SIZES[self.size]
        most = (self.line - between * len(self.widths)) / sign - self.widths[0]
        return max(sum(self.widths[1:]), min(most, _SAID))

    def lines(self, cells: Sequence[str]) -> int:
        """Return in how many lines the longest text of a row is broken."""
        return max(len(_broken(cells[place], self.widths[place])) for place in self.wrapped) if self.wrapped else 1

    def pages(self, table: Table) -> int:
        """Return on how many pages about the table stands, with its caption and notes."""
        caption = len(_broken(table.caption, self.line / _SIZES["normalsize"][0]))
        notes = sum(len(_broken(note, self.line / _SIZES["footnotesize"][0])) for note in table.below)
        headings = max(len(_broken(text, width)) for text, width in zip(table.headings, self.widths, strict=True))
        # Rules and gaps are as high as four lines.
        rows = sum(map(self.lines, _measured(table)))
        rows += sum(len(_broken(cells[1], self.room)) - 1 for cells in table.cells if _is_said(cells))
        high = _SIZES[self.size][1] * (headings + 4 + rows)
        high += _SIZES["normalsize"][1] * caption + _SIZES["footnotesize"][1] * notes
        return math.ceil(high / (_WIDTH if self.is_turned else _HEIGHT))


def escape(text: str) -> str:
    """Return a text as LaTeX shows it, whatever stands in it; a sign that its usual fonts lack by its number."""
    # A minus is longer than a hyphen; two hyphens are none longer than one.
    text = re.sub(r"(?<![\w.)-])-(?=\.?\d)", "−", unicodedata.normalize("NFC", text))
    parts = ["".join(map(_sign, part)) for part in _PART.split(text)]
    # After a space a line may end anyway.
    text = "".join(part + r"\allowbreak{}" * (not part.endswith(" ")) for part in parts[:-1]) + parts[-1]
    return re.sub(r"-(?=-)", "-{}", text)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character.isascii():
        return character if character.isprintable() else " "
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"[U+{ord(character):04X}]"


def latex(table: Table) -> str:
    """Return a table with its notes below, and above it, as a comment, the packages that it needs.

    It is written in the largest letters in which it fits a page; a table too wide for that breaks its longest texts,
    and one still too wide stands sideways. One longer than a page goes on over as few as it can.
    """
    table = replace(table, cells=tuple(tuple(map(_tied, cells)) for cells in table.cells))
    layout = _layout(table)
    is_long = layout.pages(table) > 1
    packages = ["array", "booktabs", "longtable" if is_long else "graphicx"]
    if layout.is_turned:
        packages.append("pdflscape" if is_long else "rotating")
    notes = [escape(f"{note.rstrip('.')}.") + r"\par" for note in table.below]
    below = [r"\par\smallskip", r"{\footnotesize\raggedright", *notes, "}"] if notes else []
    lines = [rf"% \usepackage{{{','.join(packages)}}}", *(_long if is_long else _float)(table, layout, below), ""]
    return "\n".join(lines)


def _tied(text: str) -> str:
    """Return a text whose intervals stay on one line, and with them their marks: a letter, or the number of a note."""
    return re.sub(r"\[\S+, \S+\]|\s\[\w{1,2}\]", lambda found: found[0].replace(" ", "\u00a0"), text)


def _layout(table: Table) -> _Layout:
    """Return the first layout of the fewest pages of those that fit its width in few lines a row."""
    columns = list(zip(table.headings, *_measured(table), strict=True))
    # The narrowest that each can be.
    least = [max(_NARROWEST, *(_width(part) for text in column for part in _PART.split(text))) for column in columns]
    whole = tuple(max(map(_width, column)) for column in columns)
    broken = tuple(max(map(_width, [*_PART.split(heading), *cells])) for heading, *cells in columns)
    tried = [
        *(_Layout(size=size, is_turned=False, widths=whole) for size in ("normalsize", "small")),
        *(_Layout(size=size, is_turned=False, widths=broken) for size in ("small", "footnotesize")),
        *(
            _wrap(_Layout(size=size, is_turned=is_turned, widths=broken), least)
            for is_turned in (False, True)
            for size in ("footnotesize", "scriptsize")
        ),
    ]
    most = [max((layout.lines(cells) for cells in _measured(table)), default=1) for layout in tried]
    fit = [each for each, lines in zip(tried, most, strict=True) if not each.is_too_wide and lines <= _MOST_LINES]
    if fit:
        return min(fit, key=lambda layout: layout.pages(table))
    # In more lines, or else smaller than is read with ease.
    tiny = _wrap(_Layout(size="tiny", is_turned=True, widths=broken), least)
    return tiny if tried[-1].is_too_wide else tried[-1]


def _wrap(layout: _Layout, least: Sequence[float]) -> _Layout:
    """Return a layout whose widest columns are broken until all columns fit, or none of them can be narrower."""
    widths = list(layout.widths)
    while layout.is_too_wide:
        wider = [place for place, narrowest in enumerate(least) if widths[place] > narrowest]
        if not wider:
            break
        place = max(wider, key=widths.__getitem__)
        widths[place] = max(widths[place] - 1, least[place])
        layout = replace(layout, widths=tuple(widths), wrapped=layout.wrapped | {place})
    return layout


def _width(text: str) -> float:
    """Return about how wide a text is, in digits."""
    return sum(
        _WIDE.get(sign) or (_foreign(sign) if not sign.isascii() else 1.4 if sign.isupper() else 1.0) for sign in text
    )


def _foreign(sign: str) -> float:
    # What is given by its number is as wide as that.
    return 9.0 if _sign(sign).startswith("[") else 1.55


def _broken(text: str, width: float) -> list[str]:
    """Return the lines of a text in a column."""
    lines = [""]
    for part in _PART.split(text):
        # A sum of the same widths in another order may differ in its last digit.
        if lines[-1] and _width(lines[-1] + part.rstrip(" ")) > width + 1e-6:
            lines.append("")
        lines[-1] += part
    return lines


def _measured(table: Table) -> list[tuple[str, ...]]:
    """Return the lines whose texts say how wide a column is: a text that has a line to itself does not."""
    return [(cells[0], *[""] * (len(cells) - 1)) if _is_said(cells) else cells for cells in table.cells]


def _is_said(cells: tuple[str, ...]) -> bool:
    """Return whether a line says one thing instead of its numbers."""
    return len(cells) > 2 and bool(cells[1]) and not any(cells[2:])


def _float(table: Table, layout: _Layout, below: Sequence[str]) -> list[str]:
    """Return a table on one page; where our measure of letters was short, it is shrunk to its line."""
    name = "sidewaystable" if layout.is_turned else "table"
    head, body = _rows(table, layout)
    grid = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return [
        *(rf"\begin{{{name}}}", r"\centering", _caption(table), rf"\label{{tab:{table.name}}}"),
        _letters(layout),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}{"
        + _columns(table, layout)
        + "}",
        *grid,
        *(r"\end{tabular}}", *below, rf"\end{{{name}}}"),
    ]


def _long(table: Table, layout: _Layout, below: Sequence[str]) -> list[str]:
    """Return a table of several pages, each with the headings."""
    head, body = _rows(table, layout)
    more = rf"\multicolumn{{{len(table.headings)}}}{{r}}{{continued on the next page}} \\"
    lines = [
        _letters(layout) + r"\setlength{\LTcapwidth}{\linewidth}",
        rf"\begin{{longtable}}{{{_columns(table, layout)}}}",
        rf"{_caption(table)}\label{{tab:{table.name}}} \\",
        *(r"\toprule", head, r"\midrule", r"\endfirsthead"),
        *(r"\toprule", head, r"\midrule", r"\endhead"),
        *(r"\midrule", more, r"\endfoot", r"\bottomrule", r"\endlastfoot"),
        *(*body, r"\end{longtable}", *below),
    ]
    name = "landscape" if layout.is_turned else "group"
    if layout.is_turned:
        return [r"\begin{landscape}", *lines, r"\end{landscape}"]
    return [rf"\begin{name}", *lines, rf"\end{name}"]


def _letters(layout: _Layout) -> str:
    return rf"\{layout.size}\setlength{{\tabcolsep}}{{{_SIZES[layout.size][2] / 2:g}pt}}"


def _caption(table: Table) -> str:
    """Return the caption; a list of tables has its title alone."""
    return rf"\caption[{{{escape(table.title)}}}]{{{escape(table.caption)}.}}"


def _columns(table: Table, layout: _Layout) -> str:
    """Return the columns; a broken one is as wide as its signs, of which two are about an em."""
    return "".join(
        (r">{\raggedright" if side == "l" else r">{\raggedleft")
        + rf"\arraybackslash}}p{{{layout.widths[place] / 2:.3g}em}}"
        if place in layout.wrapped
        else side
        for place, side in enumerate(table.align)
    )


def _rows(table: Table, layout: _Layout) -> tuple[str, list[str]]:
    """Return the line of headings and those below it."""
    heads = [
        _heading(text, width, side)
        for text, width, side in zip(table.headings, layout.widths, table.align, strict=True)
    ]
    body = []
    for cells in table.cells:
        texts = list(map(escape, cells))
        if _is_said(cells):
            column = rf">{{\raggedright\arraybackslash}}p{{{layout.room / 2:.3g}em}}"
            wide = rf"\multicolumn{{{len(cells) - 1}}}{{{column}}}{{{texts[1]}}}"
            texts = [texts[0], wide]
        body.append(_opening(" & ".join(texts)) + r" \\")
    return " & ".join(heads) + r" \\", body


def _opening(row: str) -> str:
    """Return a row that a bracket or a star may open: after the end of the row above, either would be its argument."""
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _heading(text: str, width: float, side: str) -> str:
    """Return a heading, in as many lines as its column's width asks for."""
    texts = [_opening(escape(line.rstrip())) for line in _broken(text, width)]
    if len(texts) == 1:
        return texts[0]
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r" \\ ".join(texts) + r"\end{tabular}"
