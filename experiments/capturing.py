"""Generates with a recorder on the attention: each generation's chosen calls are a folder that appears whole."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import runner, truncation
from experiments.capture_survey import Survey, check_room, survey
from experiments.generation import Generator
from experiments.identity import code_of, timed_hash
from experiments.loading import load_pipeline
from experiments.planning import Plan
from experiments.progress import Progress
from experiments.schema import CaptureConfig
from svg import provenance
from svg.atomic import write_bytes
from svg.captures.index import INDEX_FILE, Capture, read
from svg.captures.recorder import Recorder, Selection, appearing, calls_of, plain
from svg.cost.memory import GIB
from svg.prompts import Prompt
from svg.results import RecordError


@dataclass(frozen=True)
class _Job:
    """One generation whose calls are captured, and the folder that they belong in."""

    prompt: Prompt
    seed: int
    path: Path


def run(plan: Plan) -> Path:
    """Capture what is not there yet and return the folder of all its generations.

    Raises:
        ValueError: If the model has no such step, layer, branch or head, or the disk lacks the room.
        RecordError: If another process writes the same capture, or the disk refuses.
    """
    config = plan.config
    assert isinstance(config, CaptureConfig) and plan.folder is not None
    selection = _selection(config)
    settings = _settings(plan, selection)
    folder = Path(config.captures_dir) / f"{plan.title}-{timed_hash(settings, plan.device.type)}"
    jobs = [
        _Job(prompt, seed, folder / f"{prompt.prompt_id}-s{seed}") for prompt in plan.prompts for seed in config.seeds
    ]
    todo = [job for job in jobs if config.overwrite or not _is_there(job)]
    many = "s" if len(jobs) > 1 else ""
    print(f"{folder}: {len(jobs)} generation{many}, {len(jobs) - len(todo)} already captured", flush=True)
    if not todo:
        return folder
    runner.set_threads(config)
    pipeline = load_pipeline(config.model, plan.folder, plan.device)
    generator = Generator(pipeline, config.model, plan.device, config.compile)
    generator.check(plan.prompts)
    alike = {generator.shape(job.prompt): job.prompt for job in todo}
    by_shape = {shape: survey(generator, prompt) for shape, prompt in alike.items()}
    surveys = [by_shape[generator.shape(job.prompt)] for job in todo]
    surveys[0].check(selection)
    size = sum(found.bytes(selection) for found in surveys)
    print(f"{folder}: {size / GIB:.3g} GiB to write", flush=True)
    check_room(config.captures_dir, size)
    dense_backend = runner.pick_dense_backend(config, generator, plan.prompts[0]).backend
    steps = surveys[0].num_steps if selection.steps is None else max(selection.steps) + 1
    with Progress(folder.name, len(todo) * steps) as bar:
        for job, found in zip(todo, surveys, strict=True):
            with appearing(job.path) as partial:
                recorder = Recorder(selection, partial)
                capture = _capture(plan, settings, generator, dense_backend, job, found, recorder, steps, bar.step)
                text = json.dumps(capture.content(), indent=2, ensure_ascii=False)
                write_bytes(partial / INDEX_FILE, text.encode())
    return folder


def _selection(config: CaptureConfig) -> Selection:
    asked = vars(config.capture)
    return Selection(**{name: None if chosen is None else tuple(sorted(chosen)) for name, chosen in asked.items()})


def _settings(plan: Plan, selection: Selection) -> dict[str, Any]:
    """Return what decides the tensors, but for prompt and seed."""
    names = ("model", "method", "backend", "dense_backend", "compile", "device", "threads")
    modules = ("experiments.generation", Recorder.__module__)
    code = code_of(plan.config, plan.method, plan.backend, plan.device.type, *modules)
    return {name: plan.settings[name] for name in names} | {"code": code, "capture": plain(selection)}


def _is_there(job: _Job) -> bool:
    """Return whether a capture is there and whole; a damaged one is told of, and made again.

    Raises:
        ValueError: If it is another prompt's of the same id.
    """
    if not job.path.exists():
        return False
    try:
        found = read(job.path)
        for call in found.calls:
            found.data(call)
    except RecordError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=2)
        return False
    asked = job.prompt.record()
    if any(found.prompt.get(name) != asked.get(name) for name in ("text", "image_sha256")):
        raise ValueError(
            f"prompts: {job.path} holds the capture of another prompt with the id {job.prompt.prompt_id!r}; give this "
            f"one another id, choose another captures_dir, or set overwrite=true"
        )
    return True


def _capture(
    plan: Plan,
    settings: dict[str, Any],
    generator: Generator,
    dense_backend: Any,
    job: _Job,
    found: Survey,
    recorder: Recorder,
    steps: int,
    on_step: Callable[[], None],
) -> Capture:
    """Generate the first ``steps`` steps, writing files as the recorder does, and return their index."""
    model, done = plan.config.model, 0

    def after_step() -> None:
        nonlocal done
        done += 1
        on_step()
        if done == steps:
            # diffusers' own way to leave the later ones out.
            generator.pipeline._interrupt = True

    made = generator(
        job.prompt,
        job.seed,
        plan.method,
        plan.backend,
        dense_backend,
        decodes=False,
        on_step=after_step,
        statistics=recorder,
    )
    heads = recorder.selection.heads
    return Capture(
        path=recorder.folder,
        model=plan.names.model,
        method=plan.names.method,
        config=settings,
        method_defaults=dict(model.method_defaults),
        upstream=dict(model.upstream),
        prompt=job.prompt.record() | truncation.facts(generator.pipeline, model, job.prompt),
        seed=job.seed,
        heads=list(range(found.num_heads) if heads is None else heads),
        num_heads=found.num_heads,
        num_layers=made.receipt.num_layers,
        num_steps=made.receipt.num_steps,
        timesteps=made.receipt.timesteps,
        calls=calls_of(made.receipt),
        provenance=provenance.collect() | {"dense_backend": dense_backend.name},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
