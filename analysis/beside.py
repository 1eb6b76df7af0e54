"""The tables of our own that go beside a published one: tiny models, and what is counted from plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.published_tables import Beside, Published
from analysis.record_rows import Rows, matching
from analysis.remarks import form
from analysis.settings import describe, listed
from analysis.statistics import Estimate, Value, Values, estimate
from analysis.summary import QUALITY
from analysis.writer import Table
from svg.results import RecordError

_NOT_RUN = "not run"
# Headings of what no table of runs has.
_WORDS = {
    "seq_len": "tokens of a call",
    "attention_flops_share": "attention's share of the operations",
    "pflops_dense": "dense, PFLOP",
    "pflops_sparse": "sparse, PFLOP",
    "head_agreement": "agreement with the oracle",
    "head_regret": "regret",
}


def beside_table(published: Published, part: Beside, rows: Rows, runs: pd.DataFrame) -> Table | None:
    """Return one of the tables beside a published one; None where no run of it is there.

    Args:
        published: What it goes beside.
        part: Which of its tables.
        rows: Complete runs.
        runs: From `analysis.load.runs`.

    Raises:
        RecordError: If two runs fit a line and differ in more than their seeds; it names them.
    """
    found = {name: _ids(name, find, rows) for name, find in part.rows}
    used = [run for ids in found.values() for run in ids]
    if not used:
        return None
    values = Values(rows.measurements)
    lines, cells = [], []
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, ids in found.items():
        texts = [name]
        for quantity in part.quantities:
            value = _estimate(rows, values, ids, quantity) if ids else Estimate(note=_NOT_RUN)
            texts.append(_text(quantity, value))
            if texts[-1] == "–":
                reasons.setdefault((_heading(quantity), _reason(quantity, value)), []).append(name)
            lines.append(_line(name, quantity, value, ids))
        cells.append(tuple(texts))
    counted = set(used) <= set(rows.find("plan", {}))
    return Table(
        name=f"{published.name}-{part.title.lower().replace(' ', '-')}",
        title=f"{part.title}, beside {published.title}",
        headings=("", *map(_heading, part.quantities)),
        cells=tuple(cells),
        align="l" + "r" * len(part.quantities),
        frame=pd.DataFrame(lines),
        runs=runs[runs["run_id"].isin(used)],
        n="none, counted" if counted else _samples(lines),
        interval="none" if counted else "95 %, t or bootstrap-t over prompts, seeds averaged first, from 3 prompts up",
        notes=(*([part.note] if part.note else []), *_missing(reasons, len(cells))),
    )


def _heading(quantity: str) -> str:
    return _WORDS.get(quantity, form(quantity)[0])


def _missing(reasons: Mapping[tuple[str, str], list[str]], lines: int) -> list[str]:
    """Return why a quantity has a dash, and in which lines where not in all."""
    return [
        f"{quantity}{f' of {listed(names)}' if len(names) < lines else ''}: {reason}"
        for (quantity, reason), names in reasons.items()
    ]


def _reason(quantity: str, value: Estimate) -> str:
    if value.note:
        return value.note.split(";")[0]
    return "not asked for (quality.metrics)" if quantity in QUALITY else "not recorded by these runs"


def _ids(name: str, find: Mapping[str, str], rows: Rows) -> list[str]:
    """Return the runs of a line: those that differ in their seeds only, or the last plan."""
    ids = matching(rows.videos, find)
    if not ids:
        return rows.find("plan", find)[-1:]
    settings = describe(rows.videos)["settings"]
    other = next((run for run in ids if settings[run] != settings[ids[0]]), None)
    if other is not None:
        raise RecordError(
            f"runs {ids[0]} and {other} both fit {name!r}, and differ in more than their seeds; keep one of them in "
            f"--runs"
        )
    return ids


def _estimate(rows: Rows, values: Values, ids: list[str], quantity: str) -> Estimate:
    if quantity.startswith("head_"):
        return estimate(_over_heads(rows, ids, quantity))
    protocol = "tile" if quantity.startswith("density_") else "standard"
    return estimate(values.select(ids, quantity, protocol))


def _over_heads(rows: Rows, ids: list[str], quantity: str) -> list[Value]:
    """Return the mean over steps, layers and heads of each video."""
    table = rows.measurements
    chosen = table[table["run_id"].isin(ids) & (table["quantity"] == quantity) & (table["status"] == "ok")]
    means = chosen.groupby(["run_id", "prompt_id", "seed"])["value"].mean()
    return [Value(run, prompt, seed, None, "ok", float(mean), None) for (run, prompt, seed), mean in means.items()]


def _text(quantity: str, value: Estimate) -> str:
    if value.mean is None:
        # Why it could not be measured is said below.
        return value.note.split(";")[0] if value.infinite or value.note == _NOT_RUN else "–"
    # Tokens and operations to their last digit; of heads there is a mean over a sample.
    template = form(quantity)[1].replace(".4g", ".3g" if quantity.startswith("head_") else ".6g")
    if value.ci_low is None or value.ci_high is None:
        return template.format(value.mean)
    low, high = (template.format(end).rstrip("×") for end in (value.ci_low, value.ci_high))
    return template.format(value.mean) + (f" [{low}, {high}]" if low != high else "")


def _line(name: str, quantity: str, value: Estimate, ids: list[str]) -> dict[str, Any]:
    measured = {"measured": value.mean, "low": value.ci_low, "high": value.ci_high, "n": value.n}
    return {"row": name, "quantity": quantity, **measured, "note": value.note, "runs": " ".join(ids)}


def _samples(lines: list[dict[str, Any]]) -> str:
    counts = sorted({line["n"] for line in lines if line["n"]})
    return f"{', '.join(map(str, counts)) or 0} videos (prompts times seeds)"
