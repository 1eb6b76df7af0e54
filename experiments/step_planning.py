"""What a command line asks to time, checked before anything is built: one denoising step, its settings, their hash."""

from __future__ import annotations

from dataclasses import dataclass

from experiments import fp8_linear
from experiments.building import build_backend, build_dense_backend, build_method
from experiments.forced_choice import KINDS
from experiments.forecasting import layout_of, sizes_of, timesteps_of
from experiments.identity import Checked, Names, code_of, model_settings
from experiments.planning import fields_of, pick_device
from experiments.random_steps import family_of
from experiments.schema import StepConfig, VideoConfig
from svg.attaching import fastest_operations
from svg.cost.roofline import gpu_by_name
from svg.layout import TokenLayout
from svg.methods.dense import Dense

# What runs and times a step, and deals its heads out; its inputs are made by a file of the model's family.
MEASURED_BY = ("experiments.one_step", "experiments.forced_choice")


@dataclass(frozen=True, kw_only=True)
class StepPlan(Checked):
    """A measurement whose settings have been checked; nothing is built yet.

    Args:
        layout: Tokens of a self-attention call.
        shape: ``(batch, num_heads, seq_len, head_dim)`` of one.
        is_forced: Whether heads are dealt out: the method has spatial and temporal ones.
        num_steps: Of a video: dense ones, sparse ones.
        is_whole: Whether all of them are run, too.
    """

    config: StepConfig
    layout: TokenLayout
    shape: tuple[int, int, int, int]
    is_forced: bool
    num_steps: tuple[int, int]
    is_whole: bool

    @property
    def title(self) -> str:
        """What a person calls the measurement: that of a run, and what computes the sparse step."""
        return f"{'video' if self.is_whole else 'step'}-{super().title}-{self.backend.name}"


def check(config: StepConfig, names: Names) -> StepPlan:
    """Return the checked plan of a measurement.

    Raises:
        ValueError: If a setting is wrong; one line that names it, its value and the rule.
    """
    device = pick_device(config.device)
    fp8_linear.check(config.model, device)
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    if isinstance(method, Dense):
        raise ValueError(f"method={names.method} has no sparse step; the dense one is timed beside any sparse method's")
    backend = build_backend(config.backend, device.type, method)
    if config.dense_backend != "auto":
        build_dense_backend(config.dense_backend)
    if config.gpu != "auto":
        gpu_by_name(config.gpu)
    model = config.model
    geometry, sizes = sizes_of(model, "experiments.step_latency")
    family = family_of(model.pipeline)
    layout = layout_of(model, geometry, config.text_tokens)
    batch = 2 if sizes.guidance == "batched" and model.guidance_scale > 1 else 1
    shape = (batch, sizes.num_heads, layout.seq_len, sizes.head_dim)
    # A method with masks of its own for every head says only how much they keep.
    has_palette = hasattr(method, "patterns") and getattr(method, "shares_masks", True)
    patterns = method.patterns(layout) if has_palette else ()
    is_forced = tuple(pattern.name for pattern in patterns) == KINDS
    schedule = method.dense_schedule(model.num_inference_steps, sizes.num_layers, timesteps_of(model, sizes))
    dense_steps = min(schedule.dense_steps, model.num_inference_steps)
    is_whole = isinstance(config, VideoConfig) and config.whole
    measured_by = (*MEASURED_BY, *(("experiments.whole_video",) if is_whole else ()))
    without = ("method_defaults", "upstream", "path", "revision")
    settings = {
        "weights": config.weights,
        "seed": config.seed,
        "model": model_settings(model, without) | {"name": names.model},
        "call": dict(zip(("batch", "num_heads", "seq_len", "head_dim"), shape, strict=True)),
        "method": {"name": names.method, **fields_of(method), "_target_": config.method["_target_"]},
        "temporal_share": config.temporal_share if is_forced else None,
        "backend": {"name": backend.name, **fields_of(backend)},
        "dense_backend": config.dense_backend,
        "compile": config.compile,
        "operations": type(fastest_operations(device)).__name__,
        "steps": config.steps,
        "device": device.type,
        "threads": config.threads,
        "code": code_of(config, method, backend, device.type, *measured_by, family.__name__),
    }
    if is_whole:
        settings["whole"] = True
    if config.operators:
        settings["operators"] = True
    if config.gpu != "auto":
        # Whose peak some rows are a share of; the machine's own is named with the machine.
        settings["gpu"] = config.gpu
    return StepPlan(
        config=config,
        names=names,
        method=method,
        backend=backend,
        device=device,
        settings=settings,
        layout=layout,
        shape=shape,
        is_forced=is_forced,
        num_steps=(dense_steps, model.num_inference_steps - dense_steps),
        is_whole=is_whole,
    )
