"""What one denoising step took, as the rows of a record."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.floor_rows import PREFIXES, floor_rows, video_rows
from experiments.generation import PHASES
from experiments.one_step import Timing
from experiments.rows import density_rows
from experiments.timing_rows import clock_rows
from experiments.whole_video import WholeVideo
from svg.cost.flops import PETA
from svg.cost.forecast import TransformerSize
from svg.cost.roofline import Gpu, Rates, gpu_by_name, gpu_of_driver
from svg.cost.verify import CheckedBackend
from svg.results import Measurement


@dataclass(frozen=True)
class Measured:
    """All that was measured of one step.

    Args:
        timings: Repetitions of each kind of step, ``dense``, ``sparse`` and ``fixed``, which took turns.
        size: What the operations of one prediction are counted from.
        predictions: Predictions of one step: forwards times batch items.
        seq_len: Tokens of a self-attention call.
        density_requested: Fraction of pairs asked for; None where the method has none.
        warmup_s, compile_s: Before anything was timed; the second is part of the first.
        build_s: Building the transformer.
        weights_gib: Its weights.
        checks: The checked backend of ``dense`` and ``sparse`` calls.
        clocks: Samples of the GPU's clocks, power and temperature by quantity.
        gpu: Whose peak the rates are a share of, or why there is none.
        rates: What this machine reaches at the model's own sizes, or why that is not known.
        element_size: Bytes of a number.
        num_steps: Of a video: dense ones, sparse ones.
        whole: A whole video's loop, where one was run.
        apart: A dense step that ran under a profiler, and the seconds of its operators, where one did.
    """

    timings: dict[str, list[Timing]]
    size: TransformerSize
    predictions: int
    seq_len: int
    density_requested: float | None
    warmup_s: float
    compile_s: float
    build_s: float
    weights_gib: float
    checks: dict[str, CheckedBackend]
    clocks: dict[str, list[float]]
    gpu: Gpu | str
    rates: Rates | str
    element_size: int
    num_steps: tuple[int, int]
    whole: WholeVideo | None = None
    apart: tuple[Timing, dict[str, float]] | None = None

    def seconds(self, kind: str) -> list[float]:
        """Return the seconds of each repetition."""
        return [timing.step_s for timing in self.timings[kind]]

    def attention_s(self, kind: str) -> float:
        """Return the median of the seconds in attention."""
        return statistics.median(_phase_s(timing, "attention") for timing in self.timings[kind])

    def fp8_flops(self, kind: str) -> float:
        """Return those of ``flops`` that are in FP8: of linear layers, and of calls of a backend in FP8."""
        return self.predictions * self.size.fp8_flops(self.seq_len) + self.fp8_attention_flops(kind)

    def fp8_attention_flops(self, kind: str) -> float:
        """Return those of self-attention that are in FP8."""
        calls = self.timings[kind][0].receipt.calls
        in_fp8 = sum(call.density_tile * _fp8_share(call.backend) for call in calls)
        return self.flops(kind)[0] * in_fp8 / sum(call.density_tile for call in calls)

    def flops(self, kind: str) -> tuple[float, float]:
        """Return the operations of a step, (self-attention, everything else), by the tiles that were computed."""
        _, tile = self.timings[kind][0].receipt.density_overall
        attention = self.predictions * self.size.attention_flops(self.seq_len) * tile
        return attention, self.predictions * self.size.other_flops(self.seq_len)


def _fp8_share(backend: str) -> float:
    """Return the share of a backend's products that is in 8 bits: with values as they are, those of scores."""
    if backend.endswith("_fp8_qk"):
        return 0.5
    return 1.0 if "_fp8" in backend else 0.0


def rows(found: Measured, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield everything, with ``key`` in every row."""
    for kind in found.timings:
        yield from _time_rows(found, kind, key)
        yield from _rate_rows(found, kind, key)
        yield from floor_rows(found, kind, key)
    if found.apart is not None:
        yield from _operator_rows(*found.apart, key)
    for kind, check in found.checks.items():
        if check.checked:
            off: dict[str, Any] = {"unit": "1", "n": check.checked, "higher_is_better": False, **key}
            yield Measurement(quantity=f"{PREFIXES[kind]}check_error", value=check.error, **off)
            yield Measurement(quantity=f"{PREFIXES[kind]}check_allowed", value=check.allowed, **off)
            yield Measurement(quantity=f"{PREFIXES[kind]}check_relative_error", value=check.relative_error, **off)
    if "sparse" in found.timings:
        yield from density_rows(found.timings["sparse"][-1].receipt, found.density_requested, key)
        yield from _comparison_rows(found, key)
        yield from video_rows(found, key)
    seconds: dict[str, Any] = {"unit": "s", "higher_is_better": False, **key}
    for quantity in ("warmup_s", "compile_s", "build_s"):
        yield Measurement(quantity=quantity, value=getattr(found, quantity), **seconds)
    yield Measurement(quantity="weights_gib", unit="GiB", value=found.weights_gib, **key)
    yield from clock_rows(found.clocks, key)


def sentence(found: Measured) -> str:
    """Return what a person wants to know at once."""
    texts = []
    for kind in found.timings:
        seconds = found.seconds(kind)
        texts.append(f"{kind} {statistics.median(seconds):.4g} s (n={len(seconds)})")
    return ", ".join(texts)


def peak_of(name: str, device: torch.device) -> Gpu | str:
    """Return the GPU of a name, or with ``auto`` the one that a device is; why not, where its peak is not known."""
    if name != "auto":
        return gpu_by_name(name)
    if device.type != "cuda":
        return "no peak rate is known of a CPU"
    driver = torch.cuda.get_device_name(device)
    return gpu_of_driver(driver) or f"no peak rate is known of {driver}"


def _time_rows(found: Measured, kind: str, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield the median and quantiles of a step, of its phases, and the memory that it held."""
    prefix, timings, seconds = PREFIXES[kind], found.timings[kind], found.seconds(kind)
    yield _median(f"{prefix}step_s", "s", seconds, key, higher_is_better=False)
    for name, share in (("p10", 0.1), ("p90", 0.9)):
        value = float(np.quantile(seconds, share))
        shared: dict[str, Any] = {"n": len(seconds), "higher_is_better": False, **key}
        yield Measurement(quantity=f"{prefix}step_s_{name}", unit="s", value=value, **shared)
    for phase in (*PHASES, "rest"):
        each = [_phase_s(timing, phase) for timing in timings]
        yield _median(f"{prefix}phase_s", "s", each, key, protocol=phase, higher_is_better=False)
    gib = max(timing.peak_gib for timing in timings)
    yield Measurement(quantity=f"{prefix}peak_memory_gib", unit="GiB", value=gib, higher_is_better=False, **key)


def _operator_rows(timing: Timing, operators: Mapping[str, float], key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield a dense step's seconds by phase and operator, and those that neither of them claims."""
    phases = {phase: _phase_s(timing, phase) for phase in PHASES}
    beside = timing.step_s - sum(phases.values()) - sum(operators.values())
    for name, value in {**phases, **operators, "rest": beside}.items():
        shared: dict[str, Any] = {"unit": "s", "protocol": name, "higher_is_better": False, **key}
        yield Measurement(quantity="dense_operator_s", value=value, **shared)


def _rate_rows(found: Measured, kind: str, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield a step's operations, and the rates reached beside the peak."""
    prefix, (attention, other) = PREFIXES[kind], found.flops(kind)
    step_s = statistics.median(found.seconds(kind))
    attention_s = found.attention_s(kind)
    counted: dict[str, Any] = {"unit": "PFLOP", "higher_is_better": False, **key}
    yield Measurement(quantity=f"{prefix}step_pflop", value=(attention + other) / PETA, **counted)
    yield Measurement(quantity=f"{prefix}attention_pflop", value=attention / PETA, **counted)
    rate: dict[str, Any] = {"unit": "TFLOP/s", "value": attention / attention_s / 1e12, **key}
    yield Measurement(quantity=f"{prefix}attention_tflops", higher_is_better=True, **rate)
    least: dict[str, Any] = {"quantity": f"{prefix}floor_s", "unit": "s", "higher_is_better": False, **key}
    share: dict[str, Any] = {"quantity": f"{prefix}roofline_share", "unit": "1", "higher_is_better": True, **key}
    gpu, fp8 = found.gpu, found.fp8_flops(kind)
    if not isinstance(gpu, str) and fp8 and gpu.fp8_tflops is None:
        gpu = f"{gpu.name} multiplies nothing in FP8"
    if isinstance(gpu, str):
        missing: dict[str, Any] = {"value": None, "n": 0, "status": "unavailable", "reason": gpu}
        yield Measurement(**least, **missing)
        yield Measurement(**share, **missing)
        return
    floor_s = gpu.floor_s(attention, other, fp8)
    yield Measurement(value=floor_s, **least)
    yield Measurement(value=floor_s / step_s, **share)


def _comparison_rows(found: Measured, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield how much faster the sparse step is, and what deciding costs: its time less that with fixed plans."""
    better = {"higher_is_better": True}
    pairs = list(zip(found.timings["dense"], found.timings["sparse"], strict=True))
    yield _median("speedup", "1", [dense.step_s / sparse.step_s for dense, sparse in pairs], key, **better)
    calls = found.timings["sparse"][0].receipt.calls
    chosen = [index for index, call in enumerate(calls) if not call.is_dense]

    def attention(timing: Timing) -> float:
        return sum(timing.spans["attention"][index] for index in chosen)

    alone = [attention(dense) / attention(sparse) for dense, sparse in pairs]
    yield _median("attention_speedup", "1", alone, key, **better)
    moved = [attention(dense) / (attention(sparse) + _overhead_s(sparse)) for dense, sparse in pairs]
    yield _median("attention_call_speedup", "1", moved, key, **better)
    if "fixed" in found.timings:
        both = list(zip(found.timings["sparse"], found.timings["fixed"], strict=True))
        cost = [sparse.step_s - fixed.step_s for sparse, fixed in both]
        if statistics.median(cost) >= 0:
            yield _median("deciding_s", "s", cost, key, higher_is_better=False)
        else:
            reason = f"the fixed step took {-statistics.median(cost):.2g} s longer: steps vary more than deciding costs"
            missing: dict[str, Any] = {"value": None, "n": 0, "status": "unavailable", "reason": reason}
            yield Measurement(quantity="deciding_s", unit="s", higher_is_better=False, **missing, **key)
        share = [(sparse.step_s - fixed.step_s) / attention(fixed) for sparse, fixed in both]
        yield _median("deciding_share", "1", share, key, higher_is_better=False)


def _overhead_s(timing: Timing) -> float:
    return _phase_s(timing, "profiling") + _phase_s(timing, "reordering")


def _phase_s(timing: Timing, phase: str) -> float:
    """Return the seconds of a phase; ``rest`` is what no phase claims."""
    if phase == "rest":
        return max(0.0, timing.step_s - sum(_phase_s(timing, name) for name in PHASES))
    return sum(timing.spans.get(phase, ()))


def _median(quantity: str, unit: str, values: Sequence[float], key: Mapping[str, Any], **more: Any) -> Measurement:
    """Return the median of repetitions, with their number and their standard deviation where there are several."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    shared: dict[str, Any] = {"n": len(values), "spread": spread, **more, **key}
    return Measurement(quantity=quantity, unit=unit, value=statistics.median(values), **shared)
