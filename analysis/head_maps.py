"""What the head atlas of the report draws: each head's choices, and what was sampled of its attention."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

# A share of 0 to 1 as a byte of 0 to 250; 255 where there is none.
_FULL, _NONE = 250, 255
# Shares that are sampled at some steps and layers, and what a map of them is called.
_SAMPLED = {
    "head_agreement": "agreement with the best choice",
    "head_kept_mass": "attention that the pattern keeps",
    "head_entropy": "entropy of attention",
    "head_same_frame_mass": "attention on its own frame",
    "head_same_position_mass": "attention on its own place",
    "head_first_frame_mass": "attention on the first frame",
    "head_text_mass": "attention on text",
}


def head_maps(rows: pd.DataFrame | None, num_steps: int) -> dict[str, Any] | None:
    """Return means over videos, as bytes in base64; None where no head had a choice.

    Args:
        rows: The measurements of one run that belong to a head; None where there are none.
        num_steps: Denoising steps of the run.

    Returns:
        ``branches``; ``steps``, ``layers``, ``heads``, how many of each; ``choice``, the share of videos that chose
        the temporal pattern, and ``margin`` (None where none was recorded), each [branch][step][layer][head]; and
        ``sampled``, a list of ``{"quantity", "name", "steps", "layers", "values"}``, the values [branch][step][layer]
        [head] of those steps and layers only.
    """
    if rows is None:
        return None
    rows = rows[rows["status"] == "ok"]
    choices = rows[rows["quantity"] == "head_choice"]
    if choices.empty:
        return None
    branches = sorted(choices["branch"].fillna("").unique())
    steps, layers = (range(int(choices[name].max()) + 1) for name in ("step", "layer"))
    # Where heads share their choice it may stand under the first of them alone.
    heads = range(int(rows["head"].max()) + 1)
    steps = range(max(len(steps), num_steps))
    margins = rows[rows["quantity"] == "head_margin"]
    is_temporal = choices.assign(value=(choices["value"] == 1).astype(float))
    sampled = []
    for quantity, name in _SAMPLED.items():
        found = rows[(rows["quantity"] == quantity) & rows["branch"].fillna("").isin(branches) & rows["head"].notna()]
        places = [sorted(map(int, found[axis].unique())) for axis in ("step", "layer")]
        if len(found):
            values = _bytes(found, branches, *places, heads)
            sampled.append(
                {"quantity": quantity, "name": name, "steps": places[0], "layers": places[1], "values": values}
            )
    return {
        "branches": [name or "both" for name in branches],
        **{"steps": len(steps), "layers": len(layers), "heads": len(heads)},
        "choice": _bytes(is_temporal, branches, steps, layers, heads),
        "margin": None if margins.empty else _bytes(margins, branches, steps, layers, heads),
        "sampled": sampled,
    }


def _bytes(rows: pd.DataFrame, *axes: Sequence[Any]) -> str:
    """Means of the values at each branch, step, layer and head of the axes."""
    named = [rows["branch"].fillna(""), rows["step"], rows["layer"], rows["head"]]
    means = rows["value"].groupby(named).mean()
    grid = np.full([len(axis) for axis in axes], _NONE, np.uint8)
    places = [{label: place for place, label in enumerate(axis)} for axis in axes]
    indices = tuple(
        np.array([place[label] for label in level], dtype=int)
        for place, level in zip(places, zip(*means.index, strict=True), strict=True)
    )
    grid[indices] = np.rint(np.clip(means.to_numpy(float), 0, 1) * _FULL).astype(np.uint8)
    return base64.b64encode(grid.tobytes()).decode()
