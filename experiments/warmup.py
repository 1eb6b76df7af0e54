"""Before anything is timed: one dense and one sparse step, the shapes they show, and a check of the output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from experiments.generation import FromTheFirstStep, Generator
from svg import backends
from svg.cost.flops import forward_flops, video_pflops
from svg.cost.verify import CheckedBackend
from svg.methods.dense import Dense
from svg.models import adapter_for
from svg.plan import AttentionPlan
from svg.prompts import Prompt
from svg.receipt import Receipt
from svg.results import Measurement


@dataclass(frozen=True)
class Probe:
    """What one dense step shows of a model.

    Args:
        shape: ``(batch, num_heads, seq_len, head_dim)`` of a self-attention call.
        num_layers: Self-attention calls of one forward.
        forward_flops: Operations of one dense forward; None where they could not be counted.
        reason: Why not.
    """

    shape: tuple[int, int, int, int]
    num_layers: int
    forward_flops: float | None
    reason: str | None = None


@dataclass(frozen=True)
class WarmUp:
    """A warmed-up run. Times are seconds; ``compile_s`` is the part of ``warmup_s`` spent compiling.

    ``checked`` outputs of the sparse backend were compared with exact attention; ``relative_error`` is the greatest.
    """

    probe: Probe
    warmup_s: float
    compile_s: float
    checked: int
    relative_error: float

    def rows(self, receipt: Receipt, key: Mapping[str, Any]) -> Iterator[Measurement]:
        """Yield what the warm-up took, how exact the sparse backend was, and a generation's operations."""
        seconds = {"unit": "s", "higher_is_better": False, **key}
        yield Measurement(quantity="warmup_s", value=self.warmup_s, **seconds)
        yield Measurement(quantity="compile_s", value=self.compile_s, **seconds)
        if self.checked:
            exact: dict[str, Any] = {"unit": "1", "n": self.checked, "higher_is_better": False, **key}
            yield Measurement(quantity="check_relative_error", value=self.relative_error, **exact)
        shared: dict[str, Any] = {"unit": "PFLOP", "higher_is_better": False, **key}
        if self.probe.forward_flops is None:
            missing: dict[str, Any] = {"value": None, "n": 0, "status": "unavailable", "reason": self.probe.reason}
            yield Measurement(quantity="pflops_dense", **missing, **shared)
            yield Measurement(quantity="pflops_sparse", **missing, **shared)
            return
        batch, num_heads, seq_len, head_dim = self.probe.shape
        width, densities = batch * num_heads * head_dim, [call.density_tile for call in receipt.calls]
        dense, sparse = video_pflops(self.probe.forward_flops, seq_len, width, self.probe.num_layers, densities)
        yield Measurement(quantity="pflops_dense", value=dense, **shared)
        yield Measurement(quantity="pflops_sparse", value=sparse, **shared)


@dataclass
class _Recording:
    """A dense backend that notes the shape of the calls."""

    backend: Any
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.backend.name

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        self.backend.check(query, plan)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        self.shapes.append(tuple(query.shape))
        return self.backend(query, key, value, plan)


_probes: WeakKeyDictionary[torch.nn.Module, dict[tuple[Any, ...], Probe]] = WeakKeyDictionary()
_warm: WeakKeyDictionary[torch.nn.Module, set[tuple[Any, ...]]] = WeakKeyDictionary()


def probe(generator: Generator, prompt: Prompt) -> Probe:
    """Run one dense step, uncompiled, and return what it shows; once in a process for each model and shape."""
    generator = replace(generator, compile=False)
    model = generator.model
    transformer = adapter_for(generator.pipeline).transformers(generator.pipeline)[0]
    shape = (*generator.shape(prompt), model.num_frames, model.guidance_scale, str(generator.device))
    known = _probes.setdefault(transformer, {})
    if shape not in known:
        inputs: list[dict[str, Any]] = []

        def before_forward(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not inputs:
                inputs.append(dict(kwargs))

        backend = _Recording(backends.get("sdpa"))
        hook = transformer.register_forward_pre_hook(before_forward, with_kwargs=True)
        try:
            # A GPU's decoder is slow the first time; a CPU's is not, and costs as much as a sparse generation.
            decodes = generator.device.type == "cuda"
            generator(prompt, 0, Dense(), backend, backend, num_inference_steps=1, decodes=decodes)
        finally:
            hook.remove()
        layers = len(adapter_for(generator.pipeline).self_attentions(transformer))
        batch, num_heads, seq_len, head_dim = backend.shapes[0]
        known[shape] = Probe((batch, num_heads, seq_len, head_dim), layers, *_count(transformer, inputs[0]))
    return known[shape]


def _count(transformer: torch.nn.Module, inputs: dict[str, Any]) -> tuple[float | None, str | None]:
    try:
        return forward_flops(transformer, inputs), None
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        # Without weights some model's own code may not run; the run is worth having without this number.
        return None, f"the operations of {type(transformer).__name__} cannot be counted: {' '.join(str(error).split())}"


def warm_up(generator: Generator, method: Any, backend: Any, dense_backend: Any, prompt: Prompt) -> WarmUp:
    """Run one step of every kind that will be timed, of every expert, and check the sparse backend's output meanwhile.

    Raises:
        ValueError: If the method or the backend refuses the model's sequence.
        RuntimeError: If the backend's output is wrong.
    """
    found = probe(generator, prompt)
    start, compiled = time.perf_counter(), compile_seconds()
    checked = CheckedBackend(backend)
    for index, transformer in enumerate(adapter_for(generator.pipeline).transformers(generator.pipeline)):
        warm = _warm.setdefault(transformer, set())
        with only_expert(generator.pipeline, index):
            kind = found.shape, dense_backend.name, generator.compile
            # The probe was the first one's step with this kernel.
            is_probed = index == 0 and kind[1:] == ("sdpa", False)
            if kind not in warm and not is_probed:
                generator(prompt, 0, Dense(), dense_backend, dense_backend, num_inference_steps=1, decodes=False)
                warm.add(kind)
            if not isinstance(method, Dense):
                sparse = FromTheFirstStep(method)
                generator(prompt, 0, sparse, checked, dense_backend, num_inference_steps=1, decodes=False)
    seconds = time.perf_counter() - start, compile_seconds() - compiled
    return WarmUp(found, *seconds, checked.checked, checked.relative_error)


@contextmanager
def only_expert(pipeline: Any, index: int) -> Iterator[None]:
    """Let one of a pipeline's transformers denoise every step; the boundary between two of them is put back."""
    if len(adapter_for(pipeline).transformers(pipeline)) < 2:
        yield
        return
    boundary = pipeline.config.boundary_ratio
    # The second one denoises below this share of the timesteps: below none of them, below all.
    pipeline.register_to_config(boundary_ratio=(0.0, 2.0)[index])
    try:
        yield
    finally:
        pipeline.register_to_config(boundary_ratio=boundary)


@dataclass
class WarmUps:
    """Warms a run up once for each shape: prompts differ where their images do, or where padding is sliced off."""

    generator: Generator
    method: Any
    backend: Any
    dense_backend: Any
    _done: dict[tuple[int | str, ...], WarmUp] = field(default_factory=dict)

    def __call__(self, prompt: Prompt) -> WarmUp:
        """Return the warm-up for a prompt's shape, made now where there is none. Raises as ``warm_up`` does."""
        shape = self.generator.shape(prompt)
        if shape not in self._done:
            self._done[shape] = warm_up(self.generator, self.method, self.backend, self.dense_backend, prompt)
        return self._done[shape]


def compile_seconds() -> float:
    """Return the seconds that torch has spent compiling in this process so far."""
    times = getattr(sys.modules.get("torch._dynamo.utils"), "compilation_time_metrics", {})
    # The second is the first one's name in older versions.
    return float(sum(times.get("_compile.compile_inner") or times.get("entire_frame_compile") or ()))
