"""One run: a method against its dense twin over prompts and seeds, measured and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import rows, tracking, twins
from experiments.building import build_backend, build_dense_backend, build_method
from experiments.generation import Generation, Generator
from experiments.loading import find_folder, fingerprint, load_pipeline
from experiments.progress import Progress
from experiments.schema import Config
from experiments.warmup import WarmUp, probe, warm_up
from svg import backends, provenance
from svg.methods.dense import Dense
from svg.models import adapter_for
from svg.prompts import Prompt, load_prompts, make_prompts
from svg.quality import evaluate, metrics_by_name
from svg.quality.protocol import PROTOCOLS
from svg.results import Measurement, RunRecord, RunWriter, config_hash, read_run
from svg.video import write_lossless, write_preview


@dataclass(frozen=True)
class Names:
    """What the files of ``conf/`` that were picked are called, and how the run was asked for."""

    model: str
    method: str
    overrides: list[str] = field(default_factory=list)
    experiment: str | None = None
    is_sweep: bool = False


@dataclass(frozen=True)
class Plan:
    """A run whose settings have been checked; nothing is loaded yet.

    Args:
        settings: Everything that decides what is measured, and nothing else: what the run's hash is made of.
    """

    config: Config
    names: Names
    method: Any
    backend: Any
    device: torch.device
    prompts: list[Prompt]
    folder: Path
    settings: dict[str, Any]

    @property
    def run_id(self) -> str:
        """The folder's name: the given one, or model, method, kept fraction and hash."""
        if self.config.run_id is not None:
            return self.config.run_id
        density = getattr(self.method, "density_requested", None)
        kept = "" if density in (None, 1.0) else f"-{density:g}"
        return f"{self.names.model}-{self.names.method}{kept}-{self.hash[:8]}"

    @property
    def hash(self) -> str:
        return config_hash(self.settings)


def check(config: Config, names: Names) -> Plan:
    """Return the checked plan of a run.

    Raises:
        ValueError: If a setting is wrong; one line that names it, its value and the rule.
    """
    device = pick_device(config.device)
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    backend = build_backend(config.backend, device.type)
    if config.dense_backend != "auto":
        build_dense_backend(config.dense_backend)
    if not isinstance(method, Dense):
        # Refuses where a method needs a kept fraction and nobody gave one.
        getattr(method, "density_requested", None)
    for metric in config.quality.metrics:
        if metric not in metrics_by_name():
            raise ValueError(f"quality.metrics holds {metric!r}; known are {', '.join(sorted(metrics_by_name()))}")
    for protocol in config.quality.protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"quality.protocols holds {protocol!r}; known are {', '.join(PROTOCOLS)}")
    if config.prompts.path is not None:
        prompts = load_prompts(config.prompts.path)
    else:
        prompts = make_prompts(config.prompts.texts)
    folder = find_folder(config.model)
    # The weights count, wherever they lie; defaults have gone into the method.
    model = {name: value for name, value in asdict(config.model).items() if name not in ("method_defaults", "upstream")}
    model |= {"name": names.model, "fingerprint": fingerprint(folder)}
    if config.model.revision is None:
        del model["path"]
    settings = {
        "seed": config.seed,
        "seeds": config.seeds,
        "model": model,
        "method": {"name": names.method, **_fields(method), "_target_": config.method["_target_"]},
        "backend": {"name": backend.name, **_fields(backend)},
        "dense_backend": config.dense_backend,
        "prompts": [prompt.text for prompt in prompts],
        "quality": {"metrics": config.quality.metrics, "protocols": config.quality.protocols},
        "device": config.device,
        "threads": config.threads,
    }
    return Plan(config, names, method, backend, device, prompts, folder, settings)


def pick_device(name: str) -> torch.device:
    """Return the device that ``device=`` names.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no CUDA GPU here; use device=cpu or device=auto")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    return device


def run(plan: Plan) -> Path:
    """Make one run and return its folder; a complete run of the same settings is kept.

    Raises:
        ValueError: If the model, the backend or the disk cannot do what the settings say.
        RecordError: If the folder belongs to another run or is being written.
    """
    config = plan.config
    path = Path(config.runs_dir) / plan.run_id
    present = _complete_run(path)
    if present is not None and present.config_hash == plan.hash and not config.overwrite:
        print(f"{plan.run_id}: already complete, made {present.created}; overwrite=true makes it again", flush=True)
        return path
    if present is not None and not config.overwrite:
        raise ValueError(
            f"run_id={plan.run_id}: {path} holds a complete run with other settings; choose another run_id or runs_dir"
        )
    set_threads(config)
    pipeline = load_pipeline(config.model, plan.folder, plan.device)
    model = config.model
    adapter_for(pipeline).check_size(pipeline, model.height, model.width, model.num_frames)
    generator = Generator(pipeline, model, plan.device)
    dense_backend = pick_dense_backend(config.dense_backend, generator, plan.prompts[0].text)
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=plan.names.model,
        method=plan.names.method,
        backend=plan.backend.name,
        dense_backend=dense_backend.name,
        config=plan.settings,
        provenance=provenance.collect() | {"model_path": config.model.path},
        prompts=[asdict(prompt) for prompt in plan.prompts],
        seeds=config.seeds,
        overrides=plan.names.overrides,
        experiment=plan.names.experiment,
        overwrite=config.overwrite,
    )
    jobs = [(prompt, seed) for prompt in plan.prompts for seed in config.seeds]
    ready = partial(warm_up, generator, plan.method, plan.backend, dense_backend, plan.prompts[0].text)
    with Progress(plan.run_id, len(jobs) * 2 * model.num_inference_steps) as bar:
        # Alone, a wrong setting that only the model can find writes nothing; in a sweep it becomes a failed run.
        warm = None if plan.names.is_sweep else ready()
        with writer:
            warm = warm or ready()
            store = twins.Twins(
                Path(config.store_dir or Path(config.runs_dir) / ".dense"), plan.settings["model"]["fingerprint"]
            )
            for prompt, seed in jobs:
                measured = _measure(plan, generator, dense_backend, store, writer, warm, prompt, seed, bar)
                writer.extend(measured)
    tracking.publish(config.tracking, path)
    print(f"{plan.run_id}: {len(jobs)} video{'s' if len(jobs) > 1 else ''} in {path}", flush=True)
    return path


def set_threads(config: Config) -> None:
    """Give torch the CPU threads that the settings ask for, if they do."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def pick_dense_backend(name: str, generator: Generator, prompt: str) -> Any:
    """Return the dense backend of a name; ``auto`` times those that this machine has, once in a process."""
    if name != "auto":
        return build_dense_backend(name)
    shape = probe(generator, prompt).shape
    dtype = getattr(torch, generator.model.dtype)
    if (shape, dtype, generator.device) not in _fastest:
        _fastest[shape, dtype, generator.device] = backends.time_dense(shape, dtype, generator.device)
    timings = _fastest[shape, dtype, generator.device]
    if timings[0].latency_ms is None:
        raise ValueError(f"dense_backend=auto: none runs on {generator.device}: {timings[0].reason}")
    return timings[0].backend


_fastest: dict[Any, Any] = {}


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
) -> list[Measurement]:
    """Generate one video, write its files and return its rows."""
    key = {"prompt_id": prompt.prompt_id, "seed": seed}
    bar.say("dense")
    twin = store.get(generator, dense_backend, prompt.text, seed, bar.step)
    bar.say("sparse")
    made = twin.as_generation() if isinstance(plan.method, Dense) else None
    if made is None:
        made = generator(prompt.text, seed, plan.method, plan.backend, dense_backend, on_step=bar.step)
    else:
        bar.step(generator.model.num_inference_steps)
    bar.say("measuring")
    _write_videos(writer, made, twin, generator.model.fps, key)
    assert made.frames is not None
    quality = plan.config.quality
    measured: list[Measurement] = []
    for protocol in quality.protocols:
        results = evaluate(
            made.frames,
            twin.frames,
            quality.metrics,
            protocol,
            generator.model.fps,
            str(generator.device),
            quality.lpips_trunk_dir,
        )
        measured += rows.quality_rows(results, key)
    requested = getattr(plan.method, "density_requested", None)
    measured += rows.density_rows(made.receipt, requested, key)
    measured += rows.cost_rows(made, twin.timing, key)
    measured += rows.head_rows(made.receipt, key)
    measured += warm.rows(made.receipt, key)
    return measured


def _write_videos(writer: RunWriter, made: Generation, twin: twins.Twin, fps: float, key: Mapping[str, Any]) -> None:
    assert made.frames is not None
    paths = writer.video_paths(**key)
    write_lossless(paths.sparse, made.frames, fps)
    write_preview(paths.preview, made.frames, fps)
    write_preview(paths.dense_preview, twin.frames, fps)
    frames, height, width, _ = made.frames.shape
    writer.add_video(**key, frames=frames, fps=fps, height=height, width=width)


def _complete_run(path: Path) -> RunRecord | None:
    if not (path / "run.json").is_file():
        return None
    record = read_run(path)
    return record if record.status == "complete" else None


def _fields(thing: Any) -> dict[str, Any]:
    """The settings of a method or backend, as plain values."""
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}
