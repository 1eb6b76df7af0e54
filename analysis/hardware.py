"""Which machine and which code runs come from, and the refusal of tables that would mix what does not compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.settings import counted
from svg.results import RecordError


def is_counted(runs: pd.DataFrame) -> pd.Series:
    """Return which runs were counted from their settings by ``experiments.plan``: no machine decides their numbers."""
    return column(runs, "config.forecast.gpu").notna()


def hardware(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Return the machines that timed something, each with the ids of its complete runs, in order of the runs."""
    timed = runs[(runs["status"] == "complete") & ~is_counted(runs)]
    found: dict[str, list[str]] = {}
    for run in timed.to_dict("records"):
        found.setdefault(machine(run), []).append(str(run["run_id"]))
    return found


def machine(run: Mapping[Any, Any]) -> str:
    """Return what a run ran on: its GPU, or a CPU and its cores, even where a GPU stood beside it.

    Args:
        run: A row of `analysis.load.runs`.
    """
    gpu = run.get("provenance.gpu.name")
    if not pd.isna(gpu) and run.get("config.device") != "cpu":
        return str(gpu)
    cpu: list[Any] = [run.get(f"provenance.cpu.{key}") for key in ("name", "cores")]
    name, cores = cpu
    if pd.isna(name):
        return "unknown machine"
    return str(name) if pd.isna(cores) else f"{name}, {counted(int(cores), 'core')}"


def check(runs: pd.DataFrame, *, allow_mixed: bool = False, allow_dirty: bool = False) -> None:
    """Raise ``RecordError`` unless all complete runs come from one kind of machine and from committed code.

    Args:
        runs: From `analysis.load.runs`.
        allow_mixed: Whether machines may differ.
        allow_dirty: Whether the code may have been changed since its commit, or its commit be unknown.
    """
    machines = hardware(runs)
    if len(machines) > 1 and not allow_mixed:
        (one, first), (other, second), *_ = ((name, ids[0]) for name, ids in machines.items())
        raise RecordError(
            f"run {first} was made on {one}, run {second} on {other}, and numbers of two machines do not compare; "
            f"choose the runs of one, or pass --allow-mixed, to make allow_mixed=1"
        )
    whole = runs[runs["status"] == "complete"]
    dirty = column(whole, "provenance.dirty").fillna(False).astype(bool)
    unknown = column(whole, "provenance.commit").isna()
    if (dirty | unknown).any() and not allow_dirty:
        index = whole.index[dirty | unknown][0]
        why = "with uncommitted changes" if dirty[index] else "from code of no known commit"
        raise RecordError(
            f"run {whole.loc[index, 'run_id']} was made {why}, so nobody else can make it again; commit and run it "
            f"again, or pass --allow-dirty, to make allow_dirty=1"
        )


def column(runs: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of runs; of nulls where no run has it."""
    return runs[name] if name in runs else pd.Series(None, runs.index, dtype=object)
