"""Which machine and which code runs come from, and the refusal of tables that would mix what does not compare."""

from __future__ import annotations

import pandas as pd

from svg.results import RecordError


def is_counted(runs: pd.DataFrame) -> pd.Series:
    """Return which runs were counted from their settings by ``experiments.plan``: no machine decides their numbers."""
    return column(runs, "config.forecast.gpu").notna()


def hardware(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Return the machines that timed something, each with the ids of its complete runs, in order of the runs.

    A run on a CPU is known by it and its cores, even where a GPU stood beside it.
    """
    timed = runs[(runs["status"] == "complete") & ~is_counted(runs)]
    found: dict[str, list[str]] = {}
    for run in timed.to_dict("records"):
        gpu = run.get("provenance.gpu.name")
        if pd.isna(gpu) or run.get("config.device") == "cpu":
            name, cores = (run.get(f"provenance.cpu.{key}") for key in ("name", "cores"))
            words = "unknown machine" if pd.isna(name) else f"{name}" + ("" if pd.isna(cores) else f", {cores} cores")
        else:
            words = str(gpu)
        found.setdefault(words, []).append(str(run["run_id"]))
    return found


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
            f"choose the runs of one, or pass --allow-mixed"
        )
    whole = runs[runs["status"] == "complete"]
    dirty = column(whole, "provenance.dirty").fillna(False).astype(bool)
    unknown = column(whole, "provenance.commit").isna()
    if (dirty | unknown).any() and not allow_dirty:
        index = whole.index[dirty | unknown][0]
        why = "with uncommitted changes" if dirty[index] else "from code of no known commit"
        raise RecordError(
            f"run {whole.loc[index, 'run_id']} was made {why}, so nobody else can make it again; commit and run it "
            f"again, or pass --allow-dirty"
        )


def column(runs: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of runs; of nulls where no run has it."""
    return runs[name] if name in runs else pd.Series(None, runs.index, dtype=object)
