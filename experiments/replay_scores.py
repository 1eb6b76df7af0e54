"""The rows of a replay: what a method's plans on captured calls keep, lose and take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from experiments.rounding import rounding_rows
from experiments.rows import call_rows, density_rows, head_rows
from experiments.statistics_rows import sampled_rows
from svg.attaching import fastest_operations
from svg.captures.index import Capture
from svg.captures.inputs import LoadedCall, load, runs_of_heads
from svg.cost.clock import Clock
from svg.plan import AttentionPlan
from svg.receipt import Receipt, SampledCall
from svg.results import Measurement
from svg.statistics_sample import StatisticsSample

# Stands in a record where a run has its backends, unless one is asked for to be judged.
NAME = "replay"
# Of a whole generation, of which a capture is a part.
_OF_GENERATIONS = ("density_overall", "fallbacks")


def scores(
    method: Any, capture: Capture, device: torch.device, num_rows: int | None, backend: Any = None
) -> Iterator[Measurement]:
    """Yield the rows of a method on the calls of a capture.

    Steps and layers that the method keeps dense stay dense. Errors and masses are those of ``head_statistics``, on rows
    that are the same for every method. A method that remembers earlier steps knows those that were captured.

    Args:
        method: As ``svg.attach`` takes it.
        capture: Where the calls are.
        device: What computes.
        num_rows: Queries of each call; None: all.
        backend: Computes every call, for its rounding; None: nothing is computed.
    """
    key = {"prompt_id": capture.prompt["prompt_id"], "seed": capture.seed}
    schedule = method.dense_schedule(capture.num_steps, capture.num_layers, capture.timesteps)
    receipt = Receipt(schedule.dense_steps, schedule.dense_layers, capture.num_steps, capture.num_layers)
    planner = _Planner(method, device)
    for call in capture.calls:
        loaded = load(capture, call, device)
        whole = loaded.inputs(slice(None), planner.operations)
        plan = AttentionPlan.dense(whole.key_lengths)
        place: dict[str, Any] = {"step": call.step, "layer": call.layer, "branch": call.branch, **key}
        if not schedule.is_dense(call.step, call.layer):
            plan, seconds = planner(loaded)
            yield Measurement(quantity="plan_s", unit="s", value=seconds, higher_is_better=False, **place)
        context = loaded.context(0, {})
        sample = StatisticsSample(num_rows=num_rows or call.layout.seq_len)
        found = sample.measure(whole, plan, context)
        branches = tuple(call.item_branches)
        if backend is not None:
            yield from rounding_rows(backend, whole, plan, capture.heads, branches, place)
        receipt.record(context, NAME, plan, None, branches)
        receipt.sampled.append(SampledCall(call.step, call.layer, call.branch, found, branches, call.transformer))
    requested = getattr(method, "density_requested", None)
    yield from (row for row in density_rows(receipt, requested, key) if row.quantity not in _OF_GENERATIONS)
    yield from call_rows(receipt, requested, key)
    of_heads = [*head_rows(receipt, key), *(row for call in receipt.sampled for row in sampled_rows(call, key))]
    for row in of_heads:
        assert row.head is not None
        yield replace(row, head=capture.heads[row.head])


class _Planner:
    """Plans captured calls in their order, and remembers for the method what a generation would.

    Args:
        method: Decides.
        device: Whose time is taken.
    """

    def __init__(self, method: Any, device: torch.device) -> None:
        self.operations = fastest_operations(device)
        self._method, self._clock = method, Clock(device)
        self._states: dict[tuple[int, int, str, int], dict[str, Any]] = {}
        self._is_warm = False

    def __call__(self, loaded: LoadedCall) -> tuple[AttentionPlan, float]:
        """Return the plan of all heads of a call, and the seconds that the method took."""
        call, heads = loaded.call, loaded.capture.heads
        parts, seconds = [], 0.0
        for run in runs_of_heads(heads):
            inputs = loaded.inputs(run, self.operations)
            inputs.query(), inputs.key()
            offset = heads[run.start]
            state = self._states.setdefault((call.transformer, call.layer, call.branch, offset), {})
            if not self._is_warm:
                # Masks are made once in a generation, kernels compiled: neither is the time of a call.
                self._method.plan(inputs, loaded.context(offset, dict(state)))
                self._is_warm = True
            self._clock.wait()
            start = self._clock.mark()
            plan = self._method.plan(inputs, loaded.context(offset, state))
            stop = self._clock.mark()
            self._clock.wait()
            seconds += self._clock.seconds(start, stop)
            parts.append((plan, inputs.num_heads))
        return joined(parts), seconds


def joined(parts: list[tuple[AttentionPlan, int]]) -> AttentionPlan:
    """Return one plan for the heads of several, side by side; each comes with how many heads it is for.

    Patterns that the plans share are one in its palette.
    """
    patterns = list(dict.fromkeys(pattern for plan, _ in parts for pattern in plan.patterns))
    batch = max(plan.assignment.shape[0] for plan, _ in parts)
    columns = []
    for plan, num_heads in parts:
        places = torch.tensor([patterns.index(pattern) for pattern in plan.patterns], device=plan.assignment.device)
        columns.append(places[plan.assignment].expand(batch, num_heads))
    errors = [plan.diagnostics.get("error") for plan, _ in parts]
    found = [error for error in errors if error is not None and error.shape[0] == len(patterns)]
    diagnostics = {"error": torch.cat(found, 2)} if len(found) == len(parts) else {}
    return AttentionPlan(tuple(patterns), torch.cat(columns, 1), parts[0][0].key_lengths, diagnostics)
