"""How many operations this machine does in a second, measured on one matrix product."""

from __future__ import annotations

import time
from functools import cache

import torch

from svg.cost.clock import Clock

# Rows and columns of the product, and how long it is repeated.
CPU_SIZE, GPU_SIZE, SECONDS = 1024, 8192, 0.2


@cache
def product_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product, the fastest of several; once in a process."""
    clock = Clock(device)
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        start = clock.mark()
        torch.mm(left, right)
        stop = clock.mark()
        clock.wait()
        seconds.append(clock.seconds(start, stop))
    return 2.0 * size**3 / min(seconds)
