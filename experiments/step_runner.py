"""Times one denoising step, dense, sparse and with fixed plans, in turns and in one process, and records it."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments import measured_rates, resuming, step_rows, tracking
from experiments.building import build_dense_backend
from experiments.dense_choice import DenseChoice, choose_fastest
from experiments.forced_choice import FixedPlans, ForcedChoice, deal
from experiments.forecasting import size_of
from experiments.one_step import Step, Timing, build_step
from experiments.progress import Progress
from experiments.schema import MOST_REPEATS
from experiments.step_planning import StepPlan
from experiments.warmup import compile_seconds
from experiments.whole_video import WholeVideo, run_video
from svg import provenance
from svg.cost.clock import Clock
from svg.cost.gpu_clocks import GpuClocks
from svg.cost.memory import GIB, weight_bytes
from svg.cost.operators import operator_seconds
from svg.cost.verify import CheckedBackend
from svg.methods.dense import Dense
from svg.results import RunWriter


def run(plan: StepPlan) -> Path:
    """Measure, write the record and return its folder; a complete record of the same settings is kept.

    Raises:
        ValueError: If the model does not fit the device, or a backend fails on it; the record then says so, too. If
            the folder holds a complete record of other settings, or the record cannot be sent where it is to be.
        RecordError: If the folder belongs to another run or is being written.
    """
    config = plan.config
    path = plan.path
    if resuming.is_kept(plan):
        return path
    tracking.check(config.tracking)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    choice = _dense_choice(plan)
    dense_backend = choice.backend
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=plan.names.model,
        method=plan.names.method,
        backend=plan.backend.name,
        dense_backend=dense_backend.name,
        config=plan.settings,
        provenance=provenance.collect(),
        prompts=[],
        seeds=[config.seed],
        overrides=plan.names.overrides,
        experiment=plan.names.experiment,
        overwrite=config.overwrite,
    )
    with writer:
        try:
            found = _measure(plan, dense_backend)
        except Exception as error:
            # A kernel may end in anything; the other models of a sweep are timed all the same.
            raise ValueError(_failure(plan, error)) from error
        writer.extend(step_rows.rows(found, {"seed": config.seed}))
        writer.extend(choice.rows({"seed": config.seed}))
    tracking.publish(config.tracking, path)
    print(f"{plan.run_id}: {step_rows.sentence(found)} in {path}", flush=True)
    return path


def _dense_choice(plan: StepPlan) -> DenseChoice:
    """Return the dense backend that is named, or the fastest of this machine for the shape of the model's calls."""
    config = plan.config
    if config.dense_backend != "auto":
        return DenseChoice(build_dense_backend(config.dense_backend))
    try:
        return choose_fastest(plan.shape, getattr(torch, config.model.dtype), plan.device, config.cache_dir)
    except RuntimeError as error:
        raise ValueError(_failure(plan, error)) from error


def _failure(plan: StepPlan, error: Exception) -> str:
    said = " ".join(str(error).split())[:500]
    if isinstance(error, torch.OutOfMemoryError):
        said = (
            f"{plan.device} has too little memory; make model.height, model.width or model.num_frames smaller: {said}"
        )
    elif not isinstance(error, ValueError):
        said = f"{type(error).__name__}: {said}"
    return f"a step of model={plan.names.model} with backend={plan.backend.name} failed: {said}"


def _measure(plan: StepPlan, dense_backend: Any) -> step_rows.Measured:
    """Check and warm up on a block or two of each kind, then time the whole model."""
    model = plan.config.model
    assert model.transformer is not None
    # What an earlier model of a sweep has left.
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
    start, compiled = time.perf_counter(), compile_seconds()
    checks = _warm_up(plan, dense_backend)
    warmup_s, compile_s = time.perf_counter() - start, compile_seconds() - compiled
    start = time.perf_counter()
    step = build_step(model, plan.layout, plan.device, plan.config.seed, compile=plan.config.compile)
    Clock(plan.device).wait()
    build_s = time.perf_counter() - start
    weights = weight_bytes(step.denoiser.transformer) / GIB
    with GpuClocks(plan.device) as clocks:
        timings = _time(plan, step, dense_backend)
        whole = _run_whole(plan, step, dense_backend) if plan.is_whole else None
    apart = _take_apart(plan, step, dense_backend) if plan.config.operators else None
    return step_rows.Measured(
        timings=timings,
        size=size_of(model, model.transformer),
        predictions=plan.shape[0] * len(step.forwards),
        seq_len=plan.layout.seq_len,
        density_requested=getattr(plan.method, "density_requested", None),
        warmup_s=warmup_s,
        compile_s=compile_s,
        build_s=build_s,
        weights_gib=weights,
        checks=checks,
        clocks=clocks.samples,
        gpu=step_rows.peak_of(plan.config.gpu, plan.device),
        rates=measured_rates.read(measured_rates.check(replace(plan.config, run_id=None), plan.names)),
        element_size=getattr(torch, model.dtype).itemsize,
        num_steps=plan.num_steps,
        whole=whole,
        apart=apart,
    )


def _warm_up(plan: StepPlan, dense_backend: Any) -> dict[str, CheckedBackend]:
    """Run every kind of step at its real size on a block or two of each kind, and check both backends meanwhile.

    Raises:
        ValueError: If a backend refuses, or the method plans no sparse call.
        RuntimeError: If an output is wrong.
    """
    config = plan.config
    checks = {"dense": CheckedBackend(dense_backend), "sparse": CheckedBackend(plan.backend)}
    # What a first block is handed may lie otherwise in memory, and is then compiled for by itself.
    blocks = 2 if config.compile else 1
    step = build_step(config.model, plan.layout, plan.device, config.seed, blocks, config.compile)
    num_layers = len(step.adapter.self_attentions(step.denoiser.transformer))
    for method in _methods(plan, num_layers, keeps_dense_layers=False).values():
        step(method, checks["sparse"], checks["dense"])
    if "sparse" in config.steps and not checks["sparse"].checked:
        raise ValueError(f"method={plan.names.method} plans dense attention only at method.density 1; take a lower one")
    return checks


def _time(plan: StepPlan, step: Step, dense_backend: Any) -> dict[str, list[Timing]]:
    """Time the kinds of step in turns, ``repeats`` times at least, until ``seconds`` would be exceeded."""
    methods = _methods(plan)
    timings: dict[str, list[Timing]] = {name: [] for name in methods}
    order = list(methods)
    began = time.perf_counter()
    for done in range(1, MOST_REPEATS + 1):
        start = time.perf_counter()
        for name in order:
            timings[name].append(step(methods[name], plan.backend, dense_backend))
        # Back and forth, so that a GPU that grows warm slows none of them more than the others.
        order.reverse()
        now = time.perf_counter()
        if done >= plan.config.repeats and now - began + (now - start) > plan.config.seconds:
            break
    return timings


def _take_apart(plan: StepPlan, step: Step, dense_backend: Any) -> tuple[Timing, dict[str, float]]:
    """Run a dense step once more, after all that is timed; return what it took, and its operators' seconds."""
    timings: list[Timing] = []

    def call() -> None:
        timings.append(step(Dense(), plan.backend, dense_backend, is_profiled=True))

    seconds = operator_seconds(call, plan.device)
    return timings[0], seconds


def _run_whole(plan: StepPlan, step: Step, dense_backend: Any) -> WholeVideo:
    """Run all steps of a video, the first ones dense as the method wants it."""
    method = ForcedChoice(plan.method, _choices(plan), keeps_dense_steps=True)
    with Progress(plan.run_id, sum(plan.num_steps)) as bar:
        return run_video(step, method, plan.backend, dense_backend, bar.step)


def _choices(plan: StepPlan, num_layers: int | None = None) -> torch.Tensor | None:
    """Return which heads of how many layers (None: the model's) are temporal, on the device; None where none are."""
    if not plan.is_forced:
        return None
    config, (batch, num_heads, _, _) = plan.config, plan.shape
    assert config.model.transformer is not None
    num_layers = num_layers or config.model.transformer.num_layers
    return deal(num_layers, batch, num_heads, config.temporal_share, config.seed).to(plan.device)


def _methods(plan: StepPlan, num_layers: int | None = None, keeps_dense_layers: bool = True) -> dict[str, Any]:
    """Return the method of each kind of step; a fixed one repeats the plans of the sparse one that runs before it."""
    sparse = ForcedChoice(plan.method, _choices(plan, num_layers), keeps_dense_layers)
    every = {"dense": Dense(), "sparse": sparse, "fixed": FixedPlans(sparse)}
    return {name: every[name] for name in plan.config.steps}
