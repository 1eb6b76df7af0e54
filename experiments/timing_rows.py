"""Times of single calls as rows, and the GPU's clocks, power and temperature meanwhile; what is not known says so."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svg.cost.latency import Latency
from svg.results import Measurement

UNITS = {"sm_clock_mhz": "MHz", "memory_clock_mhz": "MHz", "power_w": "W", "temperature_c": "°C"}


def clock_rows(samples: Mapping[str, Sequence[float]], key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield the median of each quantity.

    Args:
        samples: From ``svg.cost.gpu_clocks.GpuClocks``.
        key: In every row.
    """
    for quantity, unit in UNITS.items():
        found = samples.get(quantity, [])
        if found:
            spread = statistics.stdev(found) if len(found) > 1 else None
            shared: dict[str, Any] = {"value": statistics.median(found), "n": len(found), "spread": spread}
        else:
            shared = {"value": None, "n": 0, "status": "unavailable", "reason": "nvidia-smi has not reported it"}
        yield Measurement(quantity=quantity, unit=unit, **shared, **key)


def latency_rows(protocol: str, found: Latency, prompt_id: str | None = None) -> Iterator[Measurement]:
    """Yield the median and the outer deciles of one call, and how long its warm-up took."""
    shared: dict[str, Any] = {"protocol": protocol, "prompt_id": prompt_id, "higher_is_better": False}
    quantiles = ("latency_ms", found.median), ("latency_low_ms", found.low), ("latency_high_ms", found.high)
    for quantity, value in quantiles:
        yield Measurement(quantity=quantity, unit="ms", value=value, n=found.repeats, spread=found.spread, **shared)
    yield Measurement(quantity="warmup_s", unit="s", value=found.warmup_s, **shared)
