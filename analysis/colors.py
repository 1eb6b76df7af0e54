"""The colours of the report: what they tell apart, in its tables as in its charts."""

from __future__ import annotations

from typing import Any

import pandas as pd

# As many as report.css has.
_COUNT = 12


class Colors:
    """Gives every method a colour; every model where there are several; and both together where several methods ran.

    Dense attention has the first colour, which is grey.

    Args:
        table: From `analysis.summary.summary`; colours are in the order of its rows.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.methods = [name for name in dict.fromkeys(table["method"]) if name != "dense"]
        self._has_models = table["model"].nunique() > 1
        named = zip(table["model"], table["method"], strict=True)
        self.names = list(dict.fromkeys(["dense", *(self.name(model, method) for model, method in named)]))

    def name(self, model: Any, method: Any) -> str:
        """Return what the colour of a run says of it."""
        if method == "dense":
            return "dense"
        names_method = len(self.methods) > 1 or not self._has_models
        return " ".join([*([str(model)] if self._has_models else []), *([str(method)] if names_method else [])])

    def place(self, model: Any, method: Any) -> int:
        """Return the number of a run's colour in the style sheet."""
        return self.names.index(self.name(model, method)) % _COUNT
