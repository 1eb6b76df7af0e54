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


def records(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (measurements, runs) of a folder of records; a relative path begins at the project's folder.

    Raises:
        RecordError: If the folder is missing or holds no run, or a run has another schema version.
    """
    path = ROOT / folder
    return load.measurements(path), load.runs(path)


def newest(runs: pd.DataFrame, method: str, sparsity: float) -> str:
    """Return the id of the newest complete run of a method at a kept fraction.

    Raises:
        RecordError: If there is none.
    """
    asked = runs[["config.method.sparsity", "config.method.density"]].bfill(axis=1).iloc[:, 0]
    found = runs[(runs["status"] == "complete") & (runs["method"] == method) & asked.eq(sparsity).fillna(False)]
    if found.empty:
        raise RecordError(f"no complete run of method={method} with method.sparsity={sparsity} is among these")
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
