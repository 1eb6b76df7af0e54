"""What makes a timed step faster, as factors: tiles, kernel, deciding; and what a video of such steps costs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.steps import is_compiled, linear_words, step_runs

FACTORS = ["from_tiles", "from_kernel", "from_deciding", "from_rest"]
_PHASES = ("attention", "profiling", "reordering", "rest")
_NAMES = ["model", "backend", "dense_backend", "gpu"]


def step_factors(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the speed-up of each timed step as a product of four factors.

    From the dense step on, one thing changes at a time: attention computes the sparse step's tiles at the dense
    kernel's rate (``from_tiles``), then at the sparse kernel's (``from_kernel``), then the step also profiles and
    reorders as the sparse one does (``from_deciding``), and the rest takes what it took there (``from_rest``, which is
    the noise of the measurement where both steps do the same besides).

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; complete ones of ``experiments.step_latency`` count.

    Returns:
        Columns ``model``, ``backend`` (whether blocks are compiled and linear layers in FP8, too), ``dense_backend``,
        ``gpu``, ``attention_share`` (of the dense step), ``tile_share`` (of attention's operations that the sparse step
        computes, dense layers included), ``speedup``, and those of ``FACTORS``.
    """
    rows = []
    for run, values in _steps(measurements, runs):
        dense, sparse = ({name: values[f"{kind}phase_s", name] for name in _PHASES} for kind in ("dense_", ""))
        tiles = values["attention_pflop", ""] / values["dense_attention_pflop", ""]
        times = [sum(dense.values())]
        for changed in (
            {"attention": dense["attention"] * tiles},
            {"attention": sparse["attention"]},
            {"profiling": sparse["profiling"], "reordering": sparse["reordering"]},
            {"rest": sparse["rest"]},
        ):
            dense |= changed
            times.append(sum(dense.values()))
        rows.append(
            {
                **run,
                "attention_share": values["dense_phase_s", "attention"] / times[0],
                "tile_share": tiles,
                "speedup": times[0] / times[-1],
                **{name: before / after for name, (before, after) in zip(FACTORS, pairwise(times), strict=True)},
            }
        )
    return pd.DataFrame(rows, columns=[*_NAMES, "attention_share", "tile_share", "speedup", *FACTORS])


def video_costs(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return what all denoising steps of a video take, composed of a dense and a sparse step.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; complete ones of ``experiments.step_latency`` count.

    Returns:
        Columns ``model``, ``backend`` (likewise), ``dense_backend``, ``gpu``, ``steps``, ``dense_steps`` (that stay
        dense; missing unless the method counts them, ``threshold_rule=step_index``), ``dense_s`` and ``sparse_s``
        (seconds of all steps; text encoding and decoding left out), ``speedup``, ``videos_per_day`` (sparse, on one
        GPU) and ``memory_gib``.
    """
    rows = []
    for run, values in _steps(measurements, runs):
        facts = runs.set_index("run_id").loc[run["run_id"]]
        steps = int(facts["config.model.num_inference_steps"])
        dense_steps = math.nan
        if facts["config.method.threshold_rule"] == "step_index":
            # As svg.schedule counts, exact for decimal fractions.
            dense_steps = math.floor(facts["config.method.first_times_fp"] * steps + 1e-9)
        dense_s, sparse_s = (values[f"{kind}step_s", ""] for kind in ("dense_", ""))
        whole, mixed = steps * dense_s, dense_steps * dense_s + (steps - dense_steps) * sparse_s
        cost = {"steps": steps, "dense_steps": dense_steps, "dense_s": whole, "sparse_s": mixed}
        cost |= {"speedup": whole / mixed, "videos_per_day": 86400 / mixed}
        rows.append({**run, **cost, "memory_gib": values["peak_memory_gib", ""]})
    costs = ["steps", "dense_steps", "dense_s", "sparse_s", "speedup", "videos_per_day", "memory_gib"]
    return pd.DataFrame(rows, columns=[*_NAMES, *costs])


def _steps(measurements: pd.DataFrame, runs: pd.DataFrame) -> list[tuple[dict[str, Any], dict[tuple[str, str], float]]]:
    """Return each step timed dense and sparse: its names, and its values by quantity and protocol."""
    chosen = step_runs(runs)
    chosen = chosen[chosen["status"] == "complete"].sort_values(["model", "backend", "created"], kind="stable")
    chosen = chosen.assign(compiled=is_compiled(chosen).map({True: ", compiled", False: ""}))
    keys = [measurements["run_id"], measurements["quantity"], measurements["protocol"].fillna("")]
    found = measurements["value"].groupby(keys).first()
    steps = []
    for run in chosen.to_dict("records"):
        values = found.loc[run["run_id"]].dropna()
        if {"step_s", "dense_step_s"} <= set(values.index.get_level_values("quantity")):
            names = {name: run[name] for name in ("run_id", "model", "dense_backend")}
            names |= {"backend": run["backend"] + run["compiled"] + linear_words(run)}
            steps.append((names | {"gpu": run.get("provenance.gpu.name")}, values.to_dict()))
    return steps
