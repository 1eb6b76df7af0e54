"""Seconds of a device by the operator that asks for them: matrix products, and attention that no phase covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from svg.cost.clock import PHASE, Clock

PRODUCTS = ("aten::mm", "aten::addmm", "aten::_addmm_activation", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm")
# The operators behind scaled_dot_product_attention.
ATTENTIONS = (
    "aten::_scaled_dot_product",
    "aten::_flash_attention",
    "aten::_cudnn_attention",
    "aten::_efficient_attention",
)


def operator_seconds(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Run ``call`` under PyTorch's profiler; return the seconds of ``products`` and ``other_attention`` in it.

    Operators within a phase of a ``PhaseClock`` that tells the profiler are left out: the phase has its own seconds.
    Time on the device is that of the kernels that an operator itself starts.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        call()
        Clock(device).wait()
    found = {"products": 0.0, "other_attention": 0.0}
    for event in profiler.events():
        kind = _kind(event.name)
        if kind is not None and not _is_in_phase(event):
            taken = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            found[kind] += taken / 1e6
    return found


def _kind(name: str) -> str | None:
    if name in PRODUCTS:
        return "products"
    return "other_attention" if name.startswith(ATTENTIONS) else None


def _is_in_phase(event: Any) -> bool:
    while event is not None:
        if event.name.startswith(PHASE):
            return True
        event = event.cpu_parent
    return False
