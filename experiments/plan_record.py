"""Writes what a configuration will do as a record, so that tables take counted operations from rows like all else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments import resuming
from experiments.building import build_method
from experiments.identity import Checked, Names, model_settings
from experiments.planning import fields_of
from experiments.schema import PlanConfig
from svg import provenance
from svg.code_hash import code_hash
from svg.results import Measurement, RunWriter

# (quantity, key of the forecast, unit, protocol, higher_is_better).
QUANTITIES: tuple[tuple[str, str, str, str | None, bool | None], ...] = (
    ("pflops_dense", "pflops_dense", "PFLOP", None, False),
    ("pflops_sparse", "pflops_sparse", "PFLOP", None, False),
    ("attention_flops_share", "attention_share", "1", None, None),
    ("density_requested", "density_requested", "1", None, None),
    ("density_executed", "density_token", "1", "token", None),
    ("density_executed", "density_tile", "1", "tile", None),
    ("density_overall", "density_overall", "1", "tile", None),
    ("num_steps", "num_steps", "steps", None, None),
    ("dense_steps", "dense_steps", "steps", None, None),
    ("num_layers", "num_layers", "layers", None, None),
    ("dense_layers", "dense_layers", "layers", None, None),
    ("seq_len", "seq_len", "tokens", None, None),
    ("dense_floor_s", "floor_dense_s", "s", None, False),
    ("floor_s", "floor_s", "s", None, False),
)


class CountedPlan(Checked):
    """A forecast as a run: nothing was computed but its operations."""

    @property
    def title(self) -> str:
        """What a person calls it: a plan of a run."""
        return f"plan-{super().title}"


def write(config: PlanConfig, names: Names, found: dict[str, Any]) -> Path:
    """Write a forecast as a record and return its folder; a complete record of the same settings is kept.

    Args:
        config: Its settings.
        names: What they were picked from.
        found: From ``forecasting.forecast``.

    Raises:
        ValueError: If the folder holds a complete record of other settings.
        RecordError: If the disk refuses, or the folder is being written.
    """
    plan = _checked(config, names)
    if resuming.is_kept(plan):
        return plan.path
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=names.model,
        method=names.method,
        # Nothing ran.
        backend="none",
        dense_backend="none",
        config=plan.settings,
        provenance=provenance.collect(),
        prompts=[],
        seeds=[],
        overrides=names.overrides,
        experiment=names.experiment,
        overwrite=config.overwrite,
    )
    with writer:
        writer.extend(rows(found))
    return plan.path


def rows(found: dict[str, Any]) -> Iterator[Measurement]:
    """Yield a forecast's quantities; one that the method decides as it runs is unavailable."""
    for quantity, key, unit, protocol, is_better in QUANTITIES:
        value = found[key]
        missing: dict[str, Any] = {}
        if value is None:
            reason = found.get("reason", f"method={found['method']} has no {quantity}")
            missing = {"n": 0, "status": "unavailable", "reason": reason}
        yield Measurement(
            quantity=quantity,
            unit=unit,
            value=None if value is None else float(value),
            protocol=protocol,
            higher_is_better=is_better,
            **missing,
        )


def _checked(config: PlanConfig, names: Names) -> CountedPlan:
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    without = ("path", "revision", "method_defaults", "upstream")
    settings = {
        "forecast": {"gpu": config.gpu, "text_tokens": config.text_tokens},
        "model": model_settings(config.model, without),
        "method": {**fields_of(method), "_target_": config.method["_target_"]},
        "code": code_hash(type(method).__module__, "experiments.forecasting"),
    }
    return CountedPlan(
        config=config, names=names, method=method, backend=None, device=torch.device("cpu"), settings=settings
    )
