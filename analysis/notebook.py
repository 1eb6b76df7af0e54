"""What notebooks need beside the analysis: the rows of a folder, and a figure that a notebook shows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import load
from svg.results import RecordError

ROOT = Path(__file__).resolve().parent.parent


def records(*folders: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (measurements, runs) of folders of records; a relative path begins at the project's folder.

    A run that several of the folders hold counts once.

    Raises:
        RecordError: If a folder is missing or holds no run, or a run has another schema version.
    """
    tables = [(load.measurements(ROOT / folder), load.runs(ROOT / folder)) for folder in folders]
    if len(tables) == 1:
        return tables[0]
    rows, runs = [], []
    seen: set[str] = set()
    for own_rows, own_runs in tables:
        rows.append(own_rows[~own_rows["run_id"].isin(seen)])
        runs.append(own_runs[~own_runs["run_id"].isin(seen)])
        seen |= set(own_runs["run_id"])
    return pd.concat(rows, ignore_index=True), pd.concat(runs, ignore_index=True)


def newest(runs: pd.DataFrame, method: str, sparsity: float, model: str | None = None) -> str:
    """Return the id of the newest complete run of a method at a kept fraction, of any model where none is named.

    Raises:
        RecordError: If there is none.
    """
    asked = runs[["config.method.sparsity", "config.method.density"]].bfill(axis=1).iloc[:, 0]
    found = runs[(runs["status"] == "complete") & (runs["method"] == method) & asked.eq(sparsity).fillna(False)]
    if model is not None:
        found = found[found["model"] == model]
    if found.empty:
        of_model = f" of model={model}" if model is not None else ""
        raise RecordError(
            f"no complete run of method={method} with method.sparsity={sparsity}{of_model} is among these"
        )
    return str(found.sort_values("created")["run_id"].iloc[-1])


@dataclass(frozen=True)
class Picture:
    """A PNG as the value of a cell; Jupyter asks for its bytes."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png


def picture(draw: Callable[..., list[Path]], *rows: Any, **settings: Any) -> Picture:
    """Return what a function of `analysis.figures` draws.

    Args:
        draw: Takes rows, the path of the figure without a suffix, and ``suffixes``; returns the files written.
        rows: What it draws, in its order.
        settings: Its other arguments.
    """
    with tempfile.TemporaryDirectory(prefix="svg-figure-") as folder:
        [file] = draw(*rows, Path(folder) / "figure", suffixes=(".png",), **settings)
        return Picture(file.read_bytes())
