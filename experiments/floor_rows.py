"""What a step and a whole video take, beside the least that this machine's measured rates allow, as rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from svg.cost.flops import PETA
from svg.cost.roofline import Floor
from svg.results import Measurement

if TYPE_CHECKING:
    from experiments.step_rows import Measured

# Quantities of each kind of step and video begin with this.
PREFIXES = {"dense": "dense_", "sparse": "", "fixed": "fixed_"}


def floor_rows(found: Measured, kind: str, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield the least time of a step at measured rates, in its parts, and the share of it that was reached."""
    prefix, floor = PREFIXES[kind], step_floor(found, kind)
    if in_fp8 := found.fp8_attention_flops(kind):
        yield Measurement(quantity=f"{prefix}fp8_attention_pflop", unit="PFLOP", value=in_fp8 / PETA, **key)
    least: dict[str, Any] = {"quantity": f"{prefix}measured_floor_s", "unit": "s", "higher_is_better": False, **key}
    share: dict[str, Any] = {"quantity": f"{prefix}measured_floor_share", "unit": "1", "higher_is_better": True, **key}
    if isinstance(floor, str):
        yield Measurement(**least, **_missing(floor))
        yield Measurement(**share, **_missing(floor))
        return
    yield Measurement(value=floor.total_s, **least)
    for part in ("attention", "products", "moving"):
        yield Measurement(value=getattr(floor, f"{part}_s"), protocol=part, **least)
    yield Measurement(value=floor.total_s / statistics.median(found.seconds(kind)), **share)
    assert not isinstance(found.rates, str)
    # Of the self-attention alone, which is what the clock of that phase sees.
    alone = found.rates.attention_s(found.flops(kind)[0], _attention_bytes(found), found.fp8_attention_flops(kind))
    yield Measurement(value=alone / found.attention_s(kind), protocol="attention", **share)


def video_rows(found: Measured, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield the seconds of a video's denoising: composed of the medians of its steps, least, and of a whole run."""
    dense, sparse = found.num_steps
    counts = {"": {"dense": dense, "sparse": sparse}, "dense_": {"dense": dense + sparse}}
    for prefix, kinds in counts.items():
        seconds: dict[str, Any] = {"unit": "s", "higher_is_better": False, **key}
        composed = sum(count * statistics.median(found.seconds(kind)) for kind, count in kinds.items())
        # Steps of a kind are counted many times, but were timed so often only.
        times = min(len(found.seconds(kind)) for kind in kinds)
        yield Measurement(quantity=f"{prefix}video_s", value=composed, protocol="composed", n=times, **seconds)
        if not prefix:
            yield from _whole_rows(found, composed, key)
        pflop = sum(count * sum(found.flops(kind)) for kind, count in kinds.items()) / PETA
        yield Measurement(quantity=f"{prefix}video_pflop", unit="PFLOP", value=pflop, **key)
        floors = [(count, step_floor(found, kind)) for kind, count in kinds.items()]
        reason = next((floor for _, floor in floors if isinstance(floor, str)), None)
        share: dict[str, Any] = {"unit": "1", "higher_is_better": True, **key}
        if reason is not None:
            yield Measurement(quantity=f"{prefix}video_floor_s", **_missing(reason), **seconds)
            yield Measurement(quantity=f"{prefix}video_floor_share", **_missing(reason), **share)
            continue
        least = sum(count * floor.total_s for count, floor in floors if not isinstance(floor, str))
        yield Measurement(quantity=f"{prefix}video_floor_s", value=least, **seconds)
        yield Measurement(quantity=f"{prefix}video_floor_share", value=least / composed, **share)


def step_floor(found: Measured, kind: str) -> Floor | str:
    """Return the least seconds of a step at the rates that this machine reaches, or why they are not known."""
    if isinstance(found.rates, str):
        return found.rates
    size, predictions, in_fp8 = found.size, found.predictions, found.fp8_attention_flops(kind)
    if in_fp8 and not found.rates.has_fp8:
        return "attention is in FP8, and no product in FP8 was timed on this machine; run experiments.rates again"
    attention = found.flops(kind)[0] + predictions * size.cross_attention_flops(found.seq_len)
    between = predictions * size.moved_bytes(found.seq_len, found.element_size)
    products = size.products(found.seq_len, predictions)
    return found.rates.floor(attention, _attention_bytes(found), products, between, in_fp8)


def _attention_bytes(found: Measured) -> float:
    return found.predictions * found.size.attention_bytes(found.seq_len, found.element_size)


def _whole_rows(found: Measured, composed_s: float, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield what a whole run took, step by step, and the composed time as a share of it."""
    whole = found.whole
    if whole is None:
        return
    seconds: dict[str, Any] = {"unit": "s", "higher_is_better": False, **key}
    yield Measurement(quantity="video_s", value=whole.total_s, protocol="whole", **seconds)
    for step, value in enumerate(whole.step_s):
        yield Measurement(quantity="video_step_s", value=value, step=step, **seconds)
    yield Measurement(quantity="composed_share", unit="1", value=composed_s / whole.total_s, **key)
    gib: dict[str, Any] = {"unit": "GiB", "higher_is_better": False, **key}
    yield Measurement(quantity="video_peak_memory_gib", value=whole.peak_gib, **gib)


def _missing(reason: str) -> dict[str, Any]:
    return {"value": None, "n": 0, "status": "unavailable", "reason": reason}
