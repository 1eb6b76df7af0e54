"""How long one call takes: warmed up, with a cold cache, by events on a GPU, as a median with quantiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from svg.cost.clock import Clock

# Written before every timed call: larger than any GPU's second-level cache, and than most CPUs' third, so that no input
# is found there.
FLUSHED_BYTES = {"cuda": 2**28, "cpu": 2**26}


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call.

    Args:
        median: Of the timed calls.
        low: Their first decile.
        high: Their last decile.
        spread: Their standard deviation.
        repeats: How many there were.
        warmup_s: Seconds of the calls before them, compilation included.
    """

    median: float
    low: float
    high: float
    spread: float
    repeats: int
    warmup_s: float


def measure(call: Callable[[], object], device: torch.device, repeats: int = 20, warmups: int = 3) -> Latency:
    """Return how long a call takes after ``warmups`` calls, in which it may compile; ``repeats`` is at least 2."""
    clock = Clock(device)
    begun = time.perf_counter()
    for _ in range(warmups):
        call()
    clock.wait()
    warmup_s = time.perf_counter() - begun
    flushed = torch.empty(FLUSHED_BYTES[device.type], dtype=torch.int8, device=device)
    marks = []
    for _ in range(repeats):
        flushed.zero_()
        start = clock.mark()
        call()
        marks.append((start, clock.mark()))
    clock.wait()
    found = sorted(1000 * clock.seconds(*pair) for pair in marks)
    deciles = statistics.quantiles(found, n=10, method="inclusive")
    return Latency(statistics.median(found), deciles[0], deciles[-1], statistics.stdev(found), repeats, warmup_s)
