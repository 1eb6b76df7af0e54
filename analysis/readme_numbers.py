"""Numbers that a document says in its prose, against the committed rows: each must be one that a row carries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.documents import fill
from svg.results import RecordError

# What a document takes from rows itself, and what is no prose.
_TABLES = re.compile(r"<!-- (\w+): \S+ -->.*?<!-- end of \1 -->", re.DOTALL)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# Units of measurement in prose: the unit of the rows that may carry the number, and by how much that is larger.
UNITS = {
    "×": ("1", 1.0),
    "times": ("1", 1.0),
    "%": ("1", 100.0),
    "percent": ("1", 100.0),
    "ms": ("ms", 1.0),
    "milliseconds": ("ms", 1.0),
    "s": ("s", 1.0),
    "seconds": ("s", 1.0),
    "minutes": ("s", 1 / 60),
    "min": ("s", 1 / 60),
    "dB": ("dB", 1.0),
    "TFLOP/s": ("TFLOP/s", 1.0),
    "PFLOP": ("PFLOP", 1.0),
    "GB/s": ("GB/s", 1.0),
    "GiB": ("GiB", 1.0),
}
_ANY_UNIT = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_NUMBER = re.compile(rf"(?<![\w.,])(?P<number>\d[\d,]*(?:\.\d+)?)[\s\u00a0-]?(?P<unit>{_ANY_UNIT})(?![\w/])")


def out_of_date(text: str, root: Path) -> list[str]:
    """Return a line if a table that the document takes from rows is not what they say."""
    try:
        filled = fill(text, root)
    except RecordError as error:
        return [str(error)]
    return [] if filled == text else ["a table differs from its rows; run python -m analysis.documents on it"]


def unbacked(text: str, measurements: pd.DataFrame) -> list[str]:
    """Return a line for each number with a unit in the prose that no row carries, rounded as the prose rounds it."""
    prose = _CODE.sub(" ", _TABLES.sub(" ", text))
    found = []
    for number in _NUMBER.finditer(prose):
        unit, scale = UNITS[number["unit"]]
        digits = number["number"].replace(",", "")
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        values = measurements.loc[measurements["unit"] == unit, "value"].dropna().to_numpy(float) * scale
        if not (np.abs(values - float(digits)) <= half * (1 + 1e-9)).any():
            around = " ".join(prose[max(0, number.start() - 40) : number.end() + 20].split())
            found.append(f"no row carries {number[0].strip()!r} in {around!r}")
    return found
