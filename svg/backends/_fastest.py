"""Which dense backend is fastest on this machine: the candidates timed on the call's own shape, wrong ones left out."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from svg import backends
from svg.plan import AttentionPlan

# Kernels in half precision differ from float32 by about 2e-3 of the output; ten times that is not rounding.
MOST_RELATIVE_ERROR = 2e-2
CHECKED_QUERIES = 64

# Files of this folder that compute dense plans, and the kernels of sdpa beside its own choice. To our own kernel a
# dense plan is one that keeps every tile.
CANDIDATES = {
    "cpu": (("sdpa", "auto"),),
    "cuda": (
        ("sdpa", "auto"),
        ("sdpa", "flash"),
        ("sdpa", "efficient"),
        ("cudnn", None),
        ("flash2", None),
        ("flash3", None),
        ("flash4", None),
        ("triton_block_sparse", None),
    ),
}


@dataclass(frozen=True)
class DenseTiming:
    """One candidate: its latency, or why it has none.

    Args:
        backend: The backend, ready to be handed to ``svg.attach``.
        latency_ms: Median of the repeats; None where it cannot run here or its output is wrong.
        reason: Why there is no latency; empty where there is one.
        repeats: Timed calls.
    """

    backend: Any
    latency_ms: float | None
    reason: str = ""
    repeats: int = 0


def time_dense(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str, repeats: int = 5
) -> list[DenseTiming]:
    """Return the dense backends of a device, fastest first, those without a latency last.

    Args:
        shape: ``(batch, num_heads, seq_len, head_dim)`` of one call.
        dtype: Its precision.
        device: Where it runs.
        repeats: Calls timed per candidate, after one to warm up, the candidates taking turns.
    """
    device = torch.device(device)
    candidates = [
        backends.get(name) if kernel is None else backends.get(name, kernel=kernel)
        for name, kernel in CANDIDATES["cuda" if device.type == "cuda" else "cpu"]
    ]
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3))
    expected = _some_rows(query, key, value)
    plan = AttentionPlan.dense()
    able, timings = [], []
    with torch.no_grad():
        for backend in candidates:
            try:
                output = backend(query, key, value, plan)[:, :, :CHECKED_QUERIES].float()
                error = float((output - expected).norm() / expected.norm())
            except ValueError as refusal:
                timings.append(DenseTiming(backend, None, str(refusal)))
                continue
            # Another package's broken wheel, changed interface or failed compilation may raise anything.
            except Exception as failure:
                timings.append(DenseTiming(backend, None, _in_one_line(failure)))
                continue
            # Not: error > most, which NaN would pass.
            if not error <= MOST_RELATIVE_ERROR:
                timings.append(DenseTiming(backend, None, f"its output is off by {error:.1e}"))
                continue
            able.append(backend)
        found: list[list[float]] = [[] for _ in able]
        for _ in range(repeats):
            for each, backend in zip(found, able, strict=True):
                each.append(_latency_ms(backend, query, key, value, plan))
    timed = [
        DenseTiming(backend, statistics.median(each), repeats=repeats)
        for backend, each in zip(able, found, strict=True)
    ]
    return sorted(timed, key=lambda timing: timing.latency_ms or 0.0) + timings


def _in_one_line(failure: Exception) -> str:
    """Return an exception's type and the first line of what it says."""
    first, *_ = str(failure).strip().splitlines() or ["no message"]
    return f"{type(failure).__name__}: {first}"


def _some_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the attention of the first queries in float32."""
    scores = query[:, :, :CHECKED_QUERIES].float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value.float()


def _latency_ms(
    backend: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
) -> float:
    if query.is_cuda:
        torch.cuda.synchronize(query.device)
    start = time.perf_counter()
    backend(query, key, value, plan)
    if query.is_cuda:
        torch.cuda.synchronize(query.device)
    return (time.perf_counter() - start) * 1000
