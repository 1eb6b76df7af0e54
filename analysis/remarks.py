"""What stands below tables and plots: the noise floor, how few prompts there are, how far densities were rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from analysis.intervals import few_prompts_text
from analysis.summary import FORMATS, quality_columns, rounding_by_method

NOT_MEASURED = "Noise floor: not measured (run experiment=dense_backend)."


def remarks(table: pd.DataFrame) -> list[str]:
    """Return the sentences that belong below a table.

    Args:
        table: From `analysis.summary.summary`.
    """
    whole = table[table["status"] == "complete"]
    counts = whole[[f"{name}_prompts" for name in quality_columns(table)]].to_numpy(int).ravel()
    # Where no video differs from its twin, there is no mean.
    few = few_prompts_text(counts[counts > 0].tolist())
    return [*filter(None, [rounding_text(whole), *noise_texts(table), few])]


def rounding_text(table: pd.DataFrame) -> str:
    """Return by how much the density computed exceeds the one asked for, method by method; empty where none is."""
    off = [f"{method} {value:+.4f}" for method, value in rounding_by_method(table).items() if method != "dense"]
    return f"Density computed less density asked for, at most: {', '.join(off)}." if off else ""


def noise_texts(table: pd.DataFrame) -> list[str]:
    """Return the noise floor of every quality in a summary, a sentence for each model and machine that has its own."""
    shown = quality_columns(table)
    whole = table[table["status"] == "complete"]
    if not shown or whole.empty:
        return []
    is_sparse = whole["method"] != "dense"
    rows = whole[is_sparse] if is_sparse.any() else whole
    lines = []
    for _, row in rows.iterrows():
        known = [(name, row[f"{name}_floor"], row[f"{name}_floor_backend"]) for name in shown]
        prefix = f"{row['model']}: " if rows["model"].nunique() > 1 else ""
        prefix += f"[{row['environment']}] " if rows["environment"].nunique() > 1 else ""
        lines.append(
            prefix + floor_text((name, value, backend) for name, value, backend in known if not pd.isna(value))
        )
    texts = list(dict.fromkeys(lines))
    if any(rows[f"{name}_noise"].eq("within noise").any() for name in shown):
        texts.append("Within noise: no further from dense than that.")
    return texts


def floor_text(floors: Iterable[tuple[str, float, str]]) -> str:
    """Return a sentence about noise floors, given as (quantity, value, backend of the other dense videos)."""
    parts = [f"{form(name)[0]} {floor_number(name, value)} on {backend}" for name, value, backend in floors]
    return f"Noise floor (dense on another kernel): {', '.join(parts)}." if parts else NOT_MEASURED


def floor_number(quantity: str, value: float) -> str:
    """Return the value of a noise floor as text."""
    return "∞ (identical)" if math.isinf(value) else form(quantity)[1].format(value)


def form(quantity: str, *, is_signed: bool = False) -> tuple[str, str]:
    """Return a quantity's name in a heading and the format of its numbers."""
    name, template = FORMATS.get(quantity, (quantity, "{:.4g}"))
    return name, template.replace("{:", "{:+") if is_signed else template
