"""What a reader narrows the report by: the model, the method, and every knob in which its runs differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

_NOT_SET = -1


def filters(runs: pd.DataFrame, facts: pd.DataFrame) -> dict[str, Any]:
    """Return what may be chosen, and what each run holds of it.

    Args:
        runs: From `analysis.load.runs`.
        facts: From `analysis.settings.describe`, of the same runs.

    Returns:
        ``facets``, the choices with more than one answer, each ``{"name", "values"}`` with numbers in rising order
        before words; and ``runs``, for each of them in order the place of its value in every facet, -1 where it has
        none.
    """
    knobs = facts.loc[runs["run_id"], "knobs"].tolist()
    columns = [("model", _texts(runs["model"])), ("method", _texts(runs["method"]))]
    for name in dict.fromkeys(name for of_run in knobs for name in of_run):
        columns.append((name, _texts(of_run.get(name) for of_run in knobs)))
    columns = [(name, texts) for name, texts in columns if len(set(texts)) > 1]
    facets = [
        {"name": name, "values": sorted({text for text in texts if text is not None}, key=_order)}
        for name, texts in columns
    ]
    places: list[dict[str | None, int]] = [
        {text: place for place, text in enumerate(facet["values"])} for facet in facets
    ]
    held = [
        [place.get(texts[row], _NOT_SET) for place, (_, texts) in zip(places, columns, strict=True)]
        for row in range(len(runs))
    ]
    return {"facets": facets, "runs": held}


def _texts(values: Iterable[Any]) -> list[str | None]:
    """Texts as in the table's labels; None where a run has no value."""
    return [
        None if _is_missing(value) else f"{value:g}" if isinstance(value, float) else str(value) for value in values
    ]


def _is_missing(value: Any) -> bool:
    return not isinstance(value, list) and (value is None or pd.isna(value))


def _order(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
