"""The table of single denoising steps: a row a run of ``experiments.step_latency``, sparse beside dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.hardware import column
from analysis.settings import describe, machine_texts

# Where a record says it of the linear layers; where it does not, they are in the model's own precision.
LINEAR_PRECISION = "config.model.linear_precision"
# Column: (heading, quantity, how a value is written).
COLUMNS = {
    "density": ("density", "density_executed", "{:.3f}"),
    "dense_s": ("dense s", "dense_step_s", "{:.2f}"),
    "sparse_s": ("sparse s", "step_s", "{:.2f}"),
    "speedup": ("speed-up", "speedup", "{:.2f}×"),
    "attention_speedup": ("attention speed-up", "attention_speedup", "{:.2f}×"),
    "deciding_s": ("deciding s", "deciding_s", "{:.2f}"),
    "peak_gib": ("memory GiB", "peak_memory_gib", "{:.1f}"),
    "dense_share": ("of peak, dense", "dense_roofline_share", "{:.0%}"),
    "share": ("of peak, sparse", "roofline_share", "{:.0%}"),
}
HEADINGS = (
    "model",
    "self-attention call",
    "sparse vs dense backend",
    *(words for words, _, _ in COLUMNS.values()),
    "n",
)


def step_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that timed a single step; from `analysis.load.runs`."""
    weights = runs.get("config.weights")
    return runs[weights.notna()] if weights is not None else runs.iloc[:0]


def is_compiled(runs: pd.DataFrame) -> pd.Series:
    """Return in which runs the transformer's blocks were compiled; records from before the choice do not say."""
    return column(runs, "config.compile").map(lambda value: str(value) == "True").astype(bool)


def has_fp8_layers(runs: pd.DataFrame) -> pd.Series:
    """Return which runs have linear layers in FP8."""
    return column(runs, LINEAR_PRECISION).isin(["fp8"])


def linear_words(run: Mapping[Any, Any]) -> str:
    """Return what a label says of a run's linear layers: nothing where they are in the model's own precision."""
    return ", FP8 linear layers" if str(run.get(LINEAR_PRECISION)) == "fp8" else ""


def step_table(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run that timed a single step, by model, backends and density; failed ones too.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; those of other commands are left out.

    Returns:
        Columns ``run_id``, ``model``, ``call`` (``batch x heads x tokens x channels``, layers), ``backend``,
        ``dense_backend``, ``is_compiled`` (the transformer's blocks), ``linear`` (words on its linear layers),
        ``environment`` (a letter of `analysis.settings.machine_texts`, the first of those that read alike),
        ``status``, ``error``, ``n`` (repetitions of the dense step), and those of ``COLUMNS``, NaN where nothing was
        measured. Times are medians in seconds; the density is by tiles.
    """
    chosen = step_runs(runs).sort_values(["model", "backend", "created"], kind="stable")
    is_whole = measurements["protocol"].isna() | (measurements["protocol"] == "tile")
    values = measurements[is_whole].set_index(["run_id", "quantity"])
    chosen = chosen.assign(is_compiled=is_compiled(chosen), environment=_letters(chosen))
    rows = []
    for run in chosen.to_dict("records"):
        sizes = [run.get(f"config.call.{name}") for name in ("batch", "num_heads", "seq_len", "head_dim")]
        row = {name: run[name] for name in ("run_id", "model", "backend", "dense_backend", "status")}
        # A job of a sweep that was refused before anything was worked out has none.
        call, layers = " × ".join(map(str, sizes)), run.get("config.model.transformer.num_layers")
        # A step of a model that is cut to a few layers is another one.
        call += "" if layers is None or pd.isna(layers) else f", {int(layers)} layers"
        row |= {"call": "–" if any(map(pd.isna, sizes)) else call, "error": run["error.message"]}
        row |= {"is_compiled": run["is_compiled"], "linear": linear_words(run), "environment": run["environment"]}
        row["n"] = _value(values, run["run_id"], "dense_step_s", "n")
        row |= {name: _value(values, run["run_id"], quantity) for name, (_, quantity, _) in COLUMNS.items()}
        rows.append(row)
    table = pd.DataFrame(rows).astype({"n": "Int64"} if rows else {})
    columns = ["model", "backend", "dense_backend", "density"]
    return table if table.empty else table.sort_values(columns, kind="stable", ignore_index=True)


def step_lines(measurements: pd.DataFrame, runs: pd.DataFrame) -> tuple[list[list[str]], list[str]]:
    """Return the cells of the table, its headings first, and what the GPU's clocks were."""
    table = step_table(measurements, runs)
    lines = [list(HEADINGS)]
    several = len(table) > 0 and table["environment"].nunique() > 1
    for row in table.to_dict("records"):
        compiled = ", compiled" if row["is_compiled"] else ""
        letter = f" [{row['environment']}]" if several and not pd.isna(row["environment"]) else ""
        backends = f"{row['backend']} vs {row['dense_backend']}{compiled}{row['linear']}{letter}"
        named = [row["model"], row["call"], backends]
        if row["status"] == "complete":
            cells = [_text(row[name], form) for name, (_, _, form) in COLUMNS.items()]
            lines.append([*named, *cells, str(row["n"])])
        else:
            lines.append([*named, f"{row['status']}: {row['error']}", *[""] * len(COLUMNS)])
    notes = []
    of_steps = measurements[measurements["run_id"].isin(table["run_id"])]
    clocks = of_steps.loc[of_steps["quantity"] == "sm_clock_mhz", "value"].dropna()
    if len(clocks):
        notes.append(f"Clock of the multiprocessors, median of each run: {clocks.min():.0f} to {clocks.max():.0f} MHz")
    return lines, notes


def _letters(runs: pd.DataFrame) -> list[str | None]:
    """Return the letter of each run's machine and code, one for all that read alike; None of a damaged run."""
    texts, letters = machine_texts(runs), describe(runs)["environment"]
    first = {text: letter for letter, text in reversed(texts.items())}
    return [None if pd.isna(letter) else first[texts[letter]] for letter in letters[runs["run_id"]]]


def _value(values: pd.DataFrame, run_id: str, quantity: str, column: str = "value") -> float:
    try:
        found = values.loc[(run_id, quantity), column]
    except KeyError:
        return float("nan")
    return float(found.iloc[0] if isinstance(found, pd.Series) else found)


def _text(value: float, form: str) -> str:
    return "–" if pd.isna(value) else form.format(value)
