"""One run: a method against its dense twin over prompts and seeds, measured and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import plain_twins, refusals, resuming, rows, tracking, truncation, twins
from experiments.building import build_dense_backend
from experiments.dense_choice import DenseChoice, choose_fastest
from experiments.generation import Generation, Generator
from experiments.loading import load_pipeline
from experiments.parts import guardrail_facts
from experiments.planning import Plan
from experiments.progress import Progress
from experiments.schema import Config
from experiments.statistics_rows import statistics_rows
from experiments.warmup import WarmUp, WarmUps, probe
from svg import provenance
from svg.methods.dense import Dense
from svg.prompts import Prompt
from svg.quality import evaluate
from svg.results import Measurement, RunWriter
from svg.video import write_lossless, write_preview


def run(plan: Plan) -> Path:
    """Make one run and return its folder; a complete run of the same settings is kept.

    Raises:
        ValueError: If the model, the backend or the disk cannot do what the settings say.
        RecordError: If the folder belongs to another run or is being written.
    """
    assert plan.folder is not None, "a plan of a run that is made has its checkpoint"
    config = plan.config
    path = plan.path
    if resuming.is_kept(plan):
        return path
    model = config.model
    jobs = [(prompt, seed) for prompt in plan.prompts for seed in config.seeds]
    store = twins.Twins(
        Path(config.store_dir or Path(config.runs_dir) / ".dense"), plan.settings["model"]["fingerprint"]
    )
    with refusals.recorded(config, plan.names, plan.run_id):
        tracking.check(config.tracking)
        set_threads(config)
        plain = plain_twins.keys(plan, store, jobs, pick_dense_backend)
        pipeline = load_pipeline(model, plan.folder, plan.device)
        generator = Generator(pipeline, model, plan.device, config.compile)
        generator.check(plan.prompts)
        choice = pick_dense_backend(config, generator, plan.prompts[0])
    dense_backend = choice.backend
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=plan.names.model,
        method=plan.names.method,
        backend=plan.backend.name,
        dense_backend=dense_backend.name,
        config=plan.settings,
        provenance=provenance.collect() | {"model_path": config.model.path} | guardrail_facts(pipeline),
        prompts=[prompt.record() | truncation.facts(pipeline, model, prompt) for prompt in plan.prompts],
        seeds=config.seeds,
        overrides=plan.names.overrides,
        experiment=plan.names.experiment,
        sweep=plan.names.sweep,
        overwrite=config.overwrite,
    )
    # Where dense attention itself is measured, both backends are the one that was asked for.
    own_dense = plan.backend if is_noise_floor(plan, dense_backend) else dense_backend
    ready = WarmUps(generator, plan.method, plan.backend, own_dense)
    with tracking.watched(config.tracking, path, plan.names.sweep or plan.names.experiment) as watched:
        with Progress(plan.run_id, len(jobs) * 2 * model.num_inference_steps) as bar:
            # Alone, a wrong setting that only the model can find writes nothing; in a sweep it becomes a failed run.
            if not plan.names.is_sweep:
                ready(plan.prompts[0])
            with writer:
                for prompt, seed in jobs:
                    measured, made = _measure(
                        plan, generator, dense_backend, store, writer, ready(prompt), prompt, seed, bar
                    )
                    writer.extend(measured)
                    if plain:
                        frames = store.frames(plain[prompt.prompt_id, seed])
                        writer.extend(
                            _quality(plan, made, frames, {"prompt_id": prompt.prompt_id, "seed": seed}, "plain_")
                        )
                writer.extend(choice.rows())
        tracking.publish(config.tracking, path, watched)
    print(f"{plan.run_id}: {len(jobs)} video{'s' if len(jobs) > 1 else ''} in {path}", flush=True)
    return path


def is_noise_floor(plan: Plan, dense_backend: Any) -> bool:
    """Return whether a run is dense attention on a backend of its own, beside that of its twin."""
    asked = plan.config.backend.get("name") != "auto"
    return isinstance(plan.method, Dense) and asked and plan.backend != dense_backend


def set_threads(config: Config) -> None:
    """Give torch the CPU threads that the settings ask for, if they do."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def pick_dense_backend(config: Config, generator: Generator, prompt: Prompt) -> DenseChoice:
    """Return the dense backend that the settings name; ``auto`` is the fastest one on the model's own shape."""
    if config.dense_backend != "auto":
        return DenseChoice(build_dense_backend(config.dense_backend))
    shape, dtype = probe(generator, prompt).shape, getattr(torch, generator.model.dtype)
    return choose_fastest(shape, dtype, generator.device, config.cache_dir)


def _measure(
    plan: Plan,
    generator: Generator,
    dense_backend: Any,
    store: twins.Twins,
    writer: RunWriter,
    warm: WarmUp,
    prompt: Prompt,
    seed: int,
    bar: Progress,
) -> tuple[list[Measurement], Generation]:
    """Generate one video, write its files and return its rows and itself."""
    key = {"prompt_id": prompt.prompt_id, "seed": seed}
    bar.say("dense")
    twin = store.get(generator, dense_backend, prompt, seed, bar.step)
    bar.say("sparse")
    if is_noise_floor(plan, dense_backend):
        made = generator(
            prompt, seed, plan.method, plan.backend, plan.backend, on_step=bar.step, statistics=plan.statistics
        )
    elif isinstance(plan.method, Dense):
        made = twin.as_generation()
        bar.step(generator.model.num_inference_steps)
    else:
        made = generator(
            prompt, seed, plan.method, plan.backend, dense_backend, on_step=bar.step, statistics=plan.statistics
        )
    if rows.busy_reason(made, twin.timing) is not None:
        # The twin may have been timed on a busy machine: its time of right now is the better one.
        bar.say("timing dense again")
        twin = store.again(generator, dense_backend, prompt, seed)
    bar.say("measuring")
    _write_videos(writer, made, twin, generator.model.fps, key)
    measured = _quality(plan, made, twin.frames, key)
    requested = getattr(plan.method, "density_requested", None)
    measured += rows.density_rows(made.receipt, requested, key)
    measured += rows.call_rows(made.receipt, requested, key)
    measured += rows.cost_rows(made, twin.timing, key)
    measured += rows.head_rows(made.receipt, key)
    if plan.statistics is not None:
        sampled = made
        if isinstance(plan.method, Dense) and not is_noise_floor(plan, dense_backend):
            # The twin comes from the store, where nobody looked on.
            bar.say("sampling")
            sampled = generator(
                prompt, seed, plan.method, dense_backend, dense_backend, decodes=False, statistics=plan.statistics
            )
        measured += statistics_rows(sampled, key)
    measured += warm.rows(made.receipt, key)
    return measured, made


def _quality(
    plan: Plan, made: Generation, reference: np.ndarray, key: Mapping[str, Any], prefix: str = ""
) -> list[Measurement]:
    """Return how far a video is from another one, in every protocol; names of quantities begin with ``prefix``."""
    assert made.frames is not None
    asked = plan.config.quality
    measured: list[Measurement] = []
    for protocol in asked.protocols:
        fps, device = plan.config.model.fps, str(plan.device)
        results = evaluate(made.frames, reference, asked.metrics, protocol, fps, device, asked.lpips_trunk_dir)
        measured += rows.quality_rows(results, key)
    return [replace(row, quantity=f"{prefix}{row.quantity}") for row in measured]


def _write_videos(writer: RunWriter, made: Generation, twin: twins.Twin, fps: float, key: Mapping[str, Any]) -> None:
    assert made.frames is not None
    paths = writer.video_paths(**key)
    write_lossless(paths.sparse, made.frames, fps)
    write_preview(paths.preview, made.frames, fps)
    write_preview(paths.dense_preview, twin.frames, fps)
    frames, height, width, _ = made.frames.shape
    size = {"frames": frames, "height": height, "width": width}
    writer.add_video(**key, **size, fps=fps, dense_key=twin.key)
