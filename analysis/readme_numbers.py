"""Numbers that a document says in its prose, against the committed rows: each names the row that carries it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from analysis.documents import fill
from analysis.record_rows import says
from analysis.targets import evaluate, means
from svg.results import RecordError

# What a document takes from rows itself, and what is no prose.
_TABLES = re.compile(r"<!-- (\w+): [^>]+? -->.*?<!-- end of \1 -->", re.DOTALL)
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
_FROM = re.compile(r"\s*<!-- from (?P<value>.+?) where (?P<where>.+?) -->")
_NUMBER = re.compile(rf"(?<![\w.,])(?P<number>\d[\d,]*(?:\.\d+)?)[\s\u00a0-]?(?P<unit>{_ANY_UNIT})(?![\w/])")


def out_of_date(text: str, root: Path) -> list[str]:
    """Return a line if a table that the document takes from rows is not what they say."""
    try:
        filled = fill(text, root)
    except RecordError as error:
        return [str(error)]
    return [] if filled == text else ["a table differs from its rows; run python -m analysis.documents on it"]


def unbacked(text: str, runs: pd.DataFrame, measurements: pd.DataFrame) -> list[str]:
    """Return a line for each number with a unit in the prose that the row it names does not carry, rounded alike.

    Behind the number stands ``<!-- from VALUE where COLUMN=TEXT ... -->``: a quantity of one run, its protocol in
    brackets, or arithmetic on several, and columns of `analysis.load.runs` that the run must have. The newest such run
    speaks, by its mean over videos.

    Args:
        text: The document.
        runs: From `analysis.targets.read_rows`.
        measurements: Likewise.
    """
    prose = _CODE.sub(" ", _TABLES.sub(" ", text))
    found = []
    for number in _NUMBER.finditer(prose):
        reason = _off(number, _FROM.match(prose, number.end()), runs, measurements)
        if reason:
            around = " ".join(prose[max(0, number.start() - 40) : number.end() + 20].split())
            found.append(f"{number[0].strip()!r} in {around!r} {reason}")
    return found


def _off(
    number: re.Match[str], source: re.Match[str] | None, runs: pd.DataFrame, measurements: pd.DataFrame
) -> str | None:
    """Return why a number is not what its row says; None where it is."""
    if source is None:
        return "names no row; write <!-- from QUANTITY where COLUMN=TEXT --> behind it"
    chosen = runs[runs["status"] == "complete"]
    for condition in source["where"].split():
        name, _, wanted = condition.partition("=")
        has = chosen[name].map(lambda value, wanted=wanted: says(value, wanted)) if name in chosen else False
        chosen = chosen[pd.Series(has, chosen.index).astype(bool)]
    unit, scale = UNITS[number["unit"]]
    digits = number["number"].replace(",", "")
    for run_id in chosen.sort_values("created", ascending=False, kind="stable")["run_id"]:
        rows = measurements[(measurements["run_id"] == run_id) & (measurements["status"] == "ok")]
        try:
            value = scale * evaluate(source["value"], means(rows[rows["unit"] == unit]))
        except KeyError:
            continue
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        return None if abs(value - float(digits)) <= half * (1 + 1e-9) else f"is {value:.6g} by run {run_id}"
    return f"has no row: no complete run with {source['where']} has {source['value']} in {unit}"
