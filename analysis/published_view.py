"""A published table beside what was measured here: a line a value, and what its verdicts need and mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from analysis.measured import Measured
from analysis.measures import measure
from analysis.published_tables import Cell, Published, differences
from analysis.record_rows import Rows
from analysis.verdicts import CANNOT, DIFFERS, NOT_MEASURED, REPRODUCED, TO_THE_DIGIT, Verdict, judge
from analysis.writer import Table

_HEADINGS = ("row", "value", "unit", "published", "measured", "verdict")


def published_view(published: Published, rows: Rows, runs: pd.DataFrame) -> Table:
    """Return a published table beside what the rows say, a line a value."""
    found = [(cell, measured := measure(rows, cell), judge(cell, measured)) for cell in published.cells]
    used = {run for _, measured, _ in found for run in measured.runs}
    counts = ", ".join(map(str, sorted({measured.n for _, measured, _ in found if measured.n})))
    return Table(
        name=published.name,
        title=f"{published.title}, beside what was measured here; published in {published.citation}",
        headings=_HEADINGS,
        cells=tuple(_cells(*each) for each in found),
        align="lllrrl",
        frame=pd.DataFrame([_line(*each) for each in found]),
        runs=runs[runs["run_id"].isin(used)],
        n=f"{counts} (repetitions of a step, cases of a kernel)" if counts else "none, counted",
        interval="95 %, Student's t over repetitions, from 3 up; counted operations have none",
        notes=(*_notes([verdict for *_, verdict in found]), *_step_notes([measured for _, measured, _ in found], rows)),
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
    return cell.row, cell.column, "" if cell.unit == "1" else cell.unit, str(cell.value), text, said


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
    order = [kind for kind in (REPRODUCED, TO_THE_DIGIT, DIFFERS, CANNOT, NOT_MEASURED) if counts[kind]]
    yield f"Of {len(verdicts)} values: " + ", ".join(f"{counts[kind]} {kind}" for kind in order)
    for needs in dict.fromkeys(verdict.because for verdict in verdicts if verdict.kind == CANNOT):
        yield f"{CANNOT[0].upper()}{CANNOT[1:]}: that needs {needs}"
    texts = differences()
    ids = [each for verdict in verdicts if verdict.kind == DIFFERS for each in verdict.because.split(", ")]
    for each in dict.fromkeys(ids):
        if each in texts:
            yield f"{each}: {texts[each]}"


def _step_notes(found: list[Measured], rows: Rows) -> Iterator[str]:
    """Yield which steps the values come from, and what it means that one is composed."""
    steps = [run for run in rows.find("step", {}) if any(run in measured.runs for measured in found)]
    if steps:
        yield "Steps timed: " + "; ".join(dict.fromkeys(map(rows.words, steps)))
    if any(measured.is_composed for measured in found):
        yield (
            "composed: a dense step of all layers, less what the layers of a shorter model save when they are sparse, "
            "times their number"
        )
