"""Peak memory of a piece of work: of the GPU where it runs on one, else of the whole process."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

GIB = 2**30


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement; where the system cannot forget an old peak, the peak stays the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Not Linux, or not allowed: peak_gib then speaks for the process's whole life.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float:
    """Return the most memory held since ``reset_peak``, in GiB: allocated on the GPU, or resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / GIB
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak if sys.platform == "darwin" else peak * 1024) / GIB


def weight_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a module's parameters; of a quantised one those that it holds, not what it stands for."""
    return sum(part.nbytes for parameter in module.parameters() for part in _held(parameter))


def _held(tensor: torch.Tensor) -> list[torch.Tensor]:
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _held(getattr(tensor, name))]
