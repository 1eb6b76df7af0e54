"""A published table beside what was measured here: a line a value, and what its verdicts need and mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from analysis.measured import Measured
from analysis.measures import measure
from analysis.published_tables import WORDS, Cell, Published, differences
from analysis.record_rows import Rows
from analysis.verdicts import (
    CANNOT,
    DIFFERS,
    NOT_MEASURED,
    REPRODUCED,
    TO_THE_DIGIT,
    TOO_WIDE,
    WIDEST,
    Verdict,
    judge,
)
from analysis.writer import Table

# Each verdict of one value, and of several.
_COUNTED = {
    REPRODUCED: "reproduced within their intervals",
    TO_THE_DIGIT: "reproduced to their last printed digit",
    TOO_WIDE: "of intervals too wide to tell",
    DIFFERS: "differ",
    CANNOT: CANNOT,
    NOT_MEASURED: NOT_MEASURED,
}
_HEADINGS = ("row", "value", "unit", "published", "measured", "verdict")


def published_view(published: Published, rows: Rows, runs: pd.DataFrame) -> Table:
    """Return a published table beside what the rows say, a line a value."""
    found = [(cell, measured := measure(rows, cell), judge(cell, measured)) for cell in published.cells]
    used = {run for _, measured, _ in found for run in measured.runs}
    counts = ", ".join(map(str, sorted({measured.n for _, measured, _ in found if measured.n})))
    n = f"{counts} (repetitions of a step, cases of a kernel)" if counts else "none, counted"
    interval = "95 %, Student's t over repetitions, from 3 up; counted operations have none"
    if all(measured.value is None for _, measured, _ in found):
        n, interval = "none, nothing was measured", "none"
    return Table(
        name=published.name,
        title=f"{published.title}, beside what was measured here; published in {published.citation}",
        headings=_HEADINGS,
        cells=tuple(_cells(*each) for each in found),
        align="lllrrl",
        frame=pd.DataFrame([_line(*each) for each in found]),
        runs=runs[runs["run_id"].isin(used)],
        n=n,
        interval=interval,
        notes=(
            *_notes([verdict for *_, verdict in found]),
            *_unbounded([(cell, measured) for cell, measured, _ in found]),
            *_step_notes([measured for _, measured, _ in found], rows),
        ),
    )


def _cells(cell: Cell, measured: Measured, verdict: Verdict) -> tuple[str, ...]:
    text = "–"
    if measured.value is not None:
        text = f"{measured.value:.{cell.decimals}f}"
        if measured.half_width is not None:
            text += f" ± {measured.half_width:.{cell.decimals + 1}f}"
        if measured.is_composed:
            text += ", composed"
    said = verdict.kind if verdict.kind == CANNOT else str(verdict)
    return cell.row, WORDS[cell.column], "" if cell.unit == "1" else cell.unit, str(cell.value), text, said


def _line(cell: Cell, measured: Measured, verdict: Verdict) -> dict[str, object]:
    ends: tuple[float | None, float | None] = (None, None)
    if measured.value is not None and measured.half_width is not None:
        ends = (measured.value - measured.half_width, measured.value + measured.half_width)
    return {
        "row": cell.row,
        "quantity": cell.column,
        "measured": measured.value,
        "low": ends[0],
        "high": ends[1],
        "n": measured.n,
        "note": verdict.because,
        "runs": " ".join(measured.runs),
        "unit": cell.unit,
        "published": str(cell.value),
        "verdict": verdict.kind,
    }


def _notes(verdicts: list[Verdict]) -> Iterator[str]:
    """Yield how many values have which verdict, what those need that have none, and what differences mean."""
    counts = Counter(verdict.kind for verdict in verdicts)
    said = [f"{counts[one]} {several if counts[one] > 1 else one}" for one, several in _COUNTED.items() if counts[one]]
    yield f"Of {len(verdicts)} values: " + ", ".join(said)
    if counts[TOO_WIDE]:
        yield (
            f"{TOO_WIDE[0].upper()}{TOO_WIDE[1:]}: it holds the published value, but its half is more than "
            f"{WIDEST:.0%} of that, and so wide an interval would hold much"
        )
    for needs in dict.fromkeys(verdict.because for verdict in verdicts if verdict.kind == CANNOT):
        yield f"{CANNOT[0].upper()}{CANNOT[1:]}: that needs {needs}"
    texts = differences()
    ids = [each for verdict in verdicts if verdict.kind == DIFFERS for each in verdict.because.split(", ")]
    for each in dict.fromkeys(ids):
        if each in texts:
            yield f"{each}: {texts[each]}"


def _unbounded(found: list[tuple[Cell, Measured]]) -> Iterator[str]:
    """Yield which timed values have no interval, and why."""
    rows: dict[str, list[str]] = {}
    for cell, measured in found:
        if measured.value is not None and measured.n and measured.half_width is None:
            rows.setdefault(measured.no_interval or "repeated fewer than 3 times", []).append(cell.row)
    for why, names in rows.items():
        yield f"No interval: {'; '.join(dict.fromkeys(names))}: {why}"


def _step_notes(found: list[Measured], rows: Rows) -> Iterator[str]:
    """Yield which steps the values come from, and what it means that one is composed."""
    steps = [run for run in rows.steps if any(run in measured.runs for measured in found)]
    if steps:
        yield "Steps timed: " + "; ".join(dict.fromkeys(map(rows.words, steps)))
    if any(measured.is_composed for measured in found):
        yield (
            "composed: a dense step of all layers, less what the layers of a shorter model save when they are sparse, "
            "times their number"
        )
