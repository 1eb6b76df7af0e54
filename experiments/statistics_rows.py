"""Where the heads looked in the calls that were sampled, as the rows of a record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.generation import Generation
from experiments.rows import branch_of
from svg.pattern_statistics import OF_VIDEO_ROWS
from svg.receipt import SampledCall
from svg.results import Measurement

# Which way is better; of where a head looks, neither is.
HIGHER_IS_BETTER = {
    "kept_mass": True,
    "output_error": False,
    "relative_l2_error": False,
    "regret": False,
    "agreement": True,
}


def statistics_rows(made: Generation, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield what was measured of every head in the sampled calls, what they cover, and what measuring them took."""
    receipt = made.receipt
    for call in receipt.sampled:
        yield from sampled_rows(call, key)
    calls = len(receipt.sampled)
    layers, steps = ({getattr(call, name) for call in receipt.sampled} for name in ("layer", "step"))
    fewest = min((call.statistics.num_rows for call in receipt.sampled), default=0)
    yield Measurement(quantity="statistics_layers", unit="layers", value=len(layers), n=receipt.num_layers, **key)
    yield Measurement(quantity="statistics_steps", unit="steps", value=len(steps), n=receipt.num_steps, **key)
    yield Measurement(quantity="statistics_rows", unit="rows", value=fewest, n=calls, **key)
    seconds = sum(made.spans.get("statistics", ()))
    yield Measurement(quantity="statistics_s", unit="s", value=seconds, n=calls, higher_is_better=False, **key)


def sampled_rows(call: SampledCall, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield what was measured of every head in one sampled call."""
    found = call.statistics
    for name, values in found.values.items():
        num_rows = found.num_video_rows if name in OF_VIDEO_ROWS else found.num_rows
        shared: dict[str, Any] = {"quantity": f"head_{name}", "unit": "1", **key}
        shared |= {"step": call.step, "layer": call.layer, "higher_is_better": HIGHER_IS_BETTER.get(name)}
        by_item = values.tolist()
        for item, heads in enumerate(by_item):
            shared["branch"] = branch_of(call.branch, call.item_branches, item, len(by_item))
            for head, value in enumerate(heads):
                if math.isfinite(value):
                    yield Measurement(value=value, n=num_rows, head=head, **shared)
                else:
                    reason = "the attention of a sampled row is not finite" if num_rows else "no sampled row is video"
                    yield Measurement(value=None, n=0, head=head, status="unavailable", reason=reason, **shared)
