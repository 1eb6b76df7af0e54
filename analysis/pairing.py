"""Which settings of a folder of runs may be compared: their videos, pooled over seeds, and what must be the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.hardware import column
from analysis.noise import NoiseFloor, NoiseFloors
from analysis.settings import dense_settings, describe, knob_text
from analysis.statistics import Values

# A prompt: its id, and what it says, for ids that people give may name other texts in other lists.
Shown = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """The runs that differ in nothing but their seeds.

    Args:
        runs: Their ids.
        model, method: Their names.
        label: The method and the settings that differ between its runs.
        knobs: These settings by name.
        environment: The letter of machine, versions and code.
        density: Kept fraction asked for; None where none was.
        conditions: What must be the same in two settings that are compared.
        floor: The noise floor of the quantity that is compared; None where it was not measured.
        videos: That quantity by prompt (its id, text and image) and seed; None where it is no number.
    """

    runs: tuple[str, ...]
    model: str
    method: str
    label: str
    knobs: dict[str, Any]
    environment: str
    density: float | None
    conditions: dict[str, str]
    floor: NoiseFloor | None
    videos: dict[tuple[Shown, int | None], float | None]


def settings(measurements: pd.DataFrame, runs: pd.DataFrame, quantity: str, protocol: str) -> Iterator[Setting]:
    """Yield every setting of the complete runs, with its videos' values of one quantity and protocol."""
    facts, values = describe(runs), Values(measurements)
    floors, shown = NoiseFloors(measurements, runs, values), _shown(runs)
    table = runs[runs["status"] == "complete"].sort_values("created", kind="stable").set_index("run_id", drop=False)
    facts = facts.loc[table.index]
    letters = facts["environment"] if facts["environment"].nunique() > 1 else None
    for ids in table.groupby(facts["settings"] + facts["environment"], sort=False).groups.values():
        run = table.loc[ids[0]]
        requested = {value.value for value in values.select(ids, "density_requested", None)}
        letter = "" if letters is None else f"[{letters[ids[0]]}]"
        label = [run["method"], knob_text(facts.at[ids[0], "knobs"]), letter]
        yield Setting(
            runs=tuple(ids),
            model=run["model"],
            method=run["method"],
            label=" ".join(filter(None, label)),
            knobs=facts.at[ids[0], "knobs"],
            environment=facts.at[ids[0], "environment"],
            density=requested.pop() if len(requested) == 1 else None,
            conditions=_conditions(values, run, list(ids)),
            floor=floors.of(run, quantity, protocol),
            videos={
                (shown.get((value.run_id, value.prompt_id), (value.prompt_id,)), value.seed): value.number
                for value in values.select(ids, quantity, protocol)
                if value.prompt_id is not None
            },
        )


def _shown(runs: pd.DataFrame) -> dict[tuple[str, str], Shown]:
    """Return each prompt of each run, by run and id."""
    return {
        (run_id, prompt["prompt_id"]): tuple(prompt.get(name, "") for name in ("prompt_id", "text", "image_sha256"))
        for run_id, prompts in zip(runs["run_id"], column(runs, "prompts"), strict=True)
        for prompt in (prompts if isinstance(prompts, list) else [])
    }


def _conditions(values: Values, run: pd.Series, ids: list[str]) -> dict[str, str]:
    """Return what must be the same for two settings to be compared."""
    shared = dense_settings(run)
    for name in ("dense_steps", "dense_layers"):
        shared[name] = repr(sorted({value.value or 0.0 for value in values.select(ids, name, None)}))
    return shared
