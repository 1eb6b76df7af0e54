"""What a sweep would do, as a table: its runs, which of them are done, how long the rest takes and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments import resuming
from experiments.estimating import Estimate, Estimator, twins_of
from experiments.planning import Plan
from svg.results import RecordError

WORDS = {
    "done": "done",
    "none": "to make",
    "failed": "to make again, it failed",
    "damaged": "to make again, it is damaged",
    "other": "refused",
}
GIB, HOUR = 2**30, 3600.0


def text(jobs: Sequence[Any]) -> str:
    """Return the table of jobs, each a ``sweeping.Job``; reads the records that are there and writes nothing."""
    lines, sources, twins = [], dict[str, None](), set[str]()
    seconds = size = 0.0
    unknown = made = 0
    estimators: dict[tuple[str, str], Estimator] = {}
    first: dict[Any, int] = {}
    for number, job in enumerate(jobs):
        plan = job.plan
        if plan is None:
            lines.append(f"  refused: {' '.join(job.overrides)}: {job.refusal}")
            continue
        if first.setdefault(plan.path, number) != number:
            lines.append(f"  {plan.run_id}: the same as another")
            continue
        try:
            state = _state(plan)
            key = (plan.config.runs_dir, plan.device.type)
            known = estimators[key] if key in estimators else estimators.setdefault(key, Estimator(*key))
            estimate = None if state == "done" else known(plan)
            state += ", not downloaded" if plan.folder is None else ""
        except (RecordError, ValueError) as error:
            lines.append(f"  refused: {plan.run_id}: {error}")
            continue
        if estimate is None:
            lines.append(f"  {plan.run_id}: {state}")
            continue
        videos, new = len(plan.prompts) * len(plan.config.seeds), twins_of(plan.settings) - known.twins - twins
        twins |= new
        made += 1
        sources[estimate.source] = None
        own_s, own_bytes = _cost(estimate, videos, len(new))
        unknown += own_s is None
        seconds, size = seconds + (own_s or 0.0), size + own_bytes
        hours = "unknown" if own_s is None else f"{own_s / HOUR:.3g}"
        lines.append(
            f"  {plan.run_id}: {state}; {videos} sparse and {len(new)} dense, {hours} h, {own_bytes / GIB:.3g} GiB"
        )
    total = f"{len(first)} runs, {made} to make: {seconds / HOUR:.3g} h of one device, {size / GIB:.3g} GiB"
    if unknown:
        total += f", and {unknown} of unknown time"
    return "\n".join(["dry run, nothing is written", *lines, total, *(f"time: {source}" for source in sources)])


def _state(plan: Plan) -> str:
    found = resuming.look(plan)
    if found.state in ("done", "other") and plan.config.overwrite:
        return "to make again, overwrite=true"
    if found.state == "other":
        raise ValueError(f"{plan.path} holds a complete run with other settings; choose another run_id or runs_dir")
    return WORDS[found.state]


def _cost(estimate: Estimate, sparse: int, dense: int) -> tuple[float | None, float]:
    """Return the seconds, if they are known, and the bytes of so many sparse and dense videos."""
    size = estimate.bytes * (sparse + dense)
    if estimate.sparse_s is None or estimate.dense_s is None:
        return None, size
    return sparse * estimate.sparse_s + dense * estimate.dense_s, size
