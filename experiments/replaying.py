"""One replay: a method's plans on the calls of a capture, scored against full attention, and their record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import resuming
from experiments.building import build_backend, build_method
from experiments.identity import Checked, Names
from experiments.planning import fields_of, pick_device
from experiments.replay_scores import NAME, scores
from experiments.runner import set_threads
from experiments.schema import ReplayConfig
from svg import provenance
from svg.captures.index import Capture, read_all
from svg.code_hash import code_hash
from svg.results import RunWriter

# What a replay takes; the rest of a run's settings belongs to the capture.
SETTINGS = ("captures", "method", "case", "backend", "num_rows", "device", "threads", "runs_dir", "run_id", "overwrite")


@dataclass(frozen=True, kw_only=True)
class ReplayPlan(Checked):
    """A replay whose settings have been checked; no tensor has been read."""

    captures: list[Capture]

    @property
    def title(self) -> str:
        """What a person calls the replay."""
        return f"{NAME}-{super().title}"


def check(config: ReplayConfig, names: Names) -> ReplayPlan:
    """Return the checked plan of a replay.

    Raises:
        ValueError: If a setting is wrong, or says something of a model.
        RecordError: If the captures cannot be read.
    """
    for override in names.overrides:
        setting = override.lstrip("+~").partition("=")[0]
        if setting.partition(".")[0] not in SETTINGS:
            raise ValueError(f"{setting} is no setting of a replay, which takes {', '.join(SETTINGS)}")
    captures = read_all(config.captures)
    first = captures[0]
    method = build_method(config.method, first.method_defaults, first.upstream)
    # Refuses where a method needs a kept fraction and nobody gave one.
    getattr(method, "density_requested", None)
    device = pick_device(config.device)
    backend, computed_by = None, {}
    modules = [type(method).__module__, scores.__module__]
    if config.backend.get("name") != "auto":
        backend = build_backend(config.backend, device.type, method)
        computed_by = {"backend": {"name": backend.name, **fields_of(backend)}}
        modules.append(type(backend).__module__)
    settings = {
        **computed_by,
        "captures": {
            "method": first.method,
            "settings": first.config["capture"],
            "hashes": [capture.checksum for capture in captures],
        },
        "model": first.config["model"],
        "method": {**fields_of(method), "_target_": config.method["_target_"]},
        "num_rows": config.num_rows,
        "device": device.type,
        "threads": config.threads,
        "code": code_hash(*modules),
    }
    own_names = Names(first.model, names.method, names.overrides, None, names.is_sweep)
    return ReplayPlan(
        config=config,
        names=own_names,
        method=method,
        backend=backend,
        device=device,
        settings=settings,
        captures=captures,
    )


def run(plan: ReplayPlan) -> Path:
    """Score the method on every captured call and return the record's folder; a complete record is kept.

    Raises:
        ValueError: If the method or the backend refuses the sequence.
        RecordError: If a capture is damaged, or the record's folder belongs to another run.
    """
    path = plan.path
    if resuming.is_kept(plan):
        return path
    config = plan.config
    assert isinstance(config, ReplayConfig)
    set_threads(config)
    prompts = {capture.prompt["prompt_id"]: capture.prompt for capture in plan.captures}
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=plan.names.model,
        method=plan.names.method,
        backend=NAME if plan.backend is None else plan.backend.name,
        dense_backend=NAME,
        config=plan.settings,
        provenance=provenance.collect(),
        prompts=list(prompts.values()),
        seeds=sorted({capture.seed for capture in plan.captures}),
        overrides=plan.names.overrides,
        overwrite=config.overwrite,
    )
    with writer, torch.no_grad():
        for capture in plan.captures:
            writer.extend(scores(plan.method, capture, plan.device, config.num_rows, plan.backend))
    calls = sum(len(capture.calls) for capture in plan.captures)
    print(f"{plan.run_id}: {calls} call{'s' if calls > 1 else ''} in {path}", flush=True)
    return path
