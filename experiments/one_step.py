"""One denoising step of a transformer alone: built with random weights, run as ``svg.attach`` runs it, and timed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from experiments import fp8_linear
from experiments.building import check_keys
from experiments.forecasting import grid_of
from experiments.random_steps import Request, family_of
from experiments.schema import ModelConfig, TransformerConfig
from svg.attaching import fastest_operations
from svg.attachment import Attachment
from svg.cost.clock import Clock, PhaseClock
from svg.cost.memory import peak_gib, reset_peak
from svg.layout import TokenLayout
from svg.models import adapter_named
from svg.receipt import Receipt


@dataclass
class Denoiser:
    """What the attachment needs of a pipeline, around a transformer alone."""

    transformer: Any
    scheduler: SimpleNamespace
    guidance_scale: float
    # Of a whole loop: the scheduler's own value, before the rounding that a transformer is given.
    current_timestep: torch.Tensor | None = None


@dataclass(frozen=True)
class Timing:
    """What one step took: seconds, seconds of every span by phase, most memory held meanwhile, and what ran."""

    step_s: float
    spans: dict[str, list[float]]
    peak_gib: float
    receipt: Receipt


@dataclass(frozen=True)
class Step:
    """One denoising step: all of its forwards, under a method and two backends."""

    denoiser: Denoiser
    adapter: Any
    forwards: list[dict[str, Any]]
    device: torch.device
    seed: int
    compile: bool = False

    def __call__(self, method: Any, backend: Any, dense_backend: Any, is_profiled: bool = False) -> Timing:
        """Run the step and return what it took; a profiler is told its phases where there is one.

        Raises:
            ValueError: If a backend refuses, or what comes out is not finite.
        """
        clock = Clock(self.device)
        phases = PhaseClock(clock, is_profiled)
        attached = Attachment(
            self.denoiser,
            self.adapter,
            method,
            backend,
            dense_backend,
            seed=self.seed,
            phases=phases,
            operations=fastest_operations(self.device),
            compile=self.compile,
        )
        reset_peak(self.device)
        with torch.no_grad(), attached as run:
            clock.wait()
            start = clock.mark()
            outputs = [self.denoiser.transformer(**inputs)[0] for inputs in self.forwards]
            stop = clock.mark()
            clock.wait()
        if not all(bool(output.isfinite().all()) for output in outputs):
            raise ValueError(f"a step with backend={backend.name} and dense_backend={dense_backend.name} is not finite")
        return Timing(clock.seconds(start, stop), phases.spans(), peak_gib(self.device), run.receipt)


def build_step(
    model: ModelConfig,
    layout: TokenLayout,
    device: torch.device,
    seed: int,
    blocks: int | None = None,
    compile: bool = False,
) -> Step:
    """Build a transformer with random weights, and random inputs in the shapes that its pipeline makes.

    Args:
        model: With ``geometry`` and ``transformer``.
        layout: Tokens of one self-attention call.
        device: Where both are built.
        seed: Of both.
        blocks: How many of each kind, for warm-ups: one has every shape of a step at a fraction of its time, two have
            every memory layout, too. None: the model's.
        compile: Whether its blocks are compiled.

    Raises:
        ValueError: If the model's settings do not describe a transformer of the family.
    """
    assert model.transformer is not None
    family, adapter = family_of(model.pipeline), adapter_named(model.pipeline)
    sizes = model.transformer
    grid = grid_of(model, sizes)
    transformer = build_transformer(family, sizes, getattr(torch, model.dtype), device, seed, blocks)
    if model.linear_precision == "fp8":
        fp8_linear.quantise(transformer, model.pipeline, device)
    timesteps = torch.tensor(grid, device=device)
    denoiser = Denoiser(transformer, SimpleNamespace(timesteps=timesteps), model.guidance_scale)
    num_layers = len(adapter.self_attentions(transformer))
    if blocks is None and num_layers != sizes.num_layers:
        raise ValueError(
            f"model.transformer.num_layers is {sizes.num_layers}, but model.transformer.diffusers makes {num_layers}"
        )
    generator = torch.Generator(device).manual_seed(seed)
    latents = latent_size(model, layout, transformer)
    request = Request(transformer, model, sizes, layout, latents, grid[0], generator)
    return Step(denoiser, adapter, family.forwards(request), device, seed, compile)


def build_transformer(
    family: ModuleType,
    sizes: TransformerConfig,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
    blocks: int | None = None,
) -> Any:
    """Return a transformer with diffusers' own random weights, in the types in which a checkpoint would be loaded.

    Args:
        family: From ``family_of``.
        sizes: The model's settings of its transformer.
        dtype: Precision of the weights, save those that its class keeps in float32.
        device: Where it is built, at once.
        seed: Of the weights; the global generator is put back.
        blocks: How many of each kind; None: the model's.

    Raises:
        ValueError: If the class has no such setting.
    """
    import diffusers

    transformer_class = getattr(diffusers, family.TRANSFORMER)
    settings = {"num_attention_heads": sizes.num_heads, "attention_head_dim": sizes.head_dim}
    settings |= family.settings(sizes) | sizes.diffusers
    known = inspect.signature(transformer_class.__init__).parameters
    check_keys("model.transformer.diffusers", sizes.diffusers, known)
    if blocks is not None:
        settings |= dict.fromkeys(family.LAYERS, blocks)
    before = torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            transformer = transformer_class(**settings)
        finally:
            torch.set_default_dtype(before)
    # As from_pretrained has it, to the letter: these stay float32 in a model of any precision.
    kept = set(transformer_class._keep_in_fp32_modules or ())
    for name, parameter in transformer.named_parameters():
        if kept & set(name.split(".")):
            parameter.data = parameter.data.float()
    return transformer.eval().requires_grad_(False)


def latent_size(model: ModelConfig, layout: TokenLayout, transformer: Any) -> tuple[int, int, int]:
    """Return frames, height and width of the latents, filled up to whole tokens."""
    assert model.geometry is not None
    patch = transformer.config.patch_size
    _, tall, wide = (1, patch, patch) if isinstance(patch, int) else patch
    height, width = (pixels // model.geometry.pixels_per_token for pixels in (model.height, model.width))
    return layout.num_frames * model.geometry.latents_per_token, height * tall, width * wide
