"""What was measured, as the rows of a record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.generation import PHASES, Generation
from svg.quality import QualityResult
from svg.receipt import Call, Receipt
from svg.results import Measurement

# Which number stands for a head's pattern; other patterns have no place on the line between the two.
CHOICES = {"spatial": 0.0, "temporal": 1.0}
# How far apart the times of the same work in a sparse generation and its dense twin may lie, as a share of the shorter
# generation: the speed-up is then off by about as much.
MOST_APART = 0.1


def quality_rows(results: list[QualityResult], key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield a row per metric, and one per frame where there is a value per frame."""
    for result in results:
        shared = {"quantity": result.quantity, "unit": result.unit, "protocol": result.protocol, **key}
        shared["higher_is_better"] = result.higher_is_better
        yield Measurement(
            value=result.value, n=result.n, spread=result.spread, status=result.status, reason=result.reason, **shared
        )
        for frame, value in enumerate(result.per_frame or ()):
            yield Measurement(value=value, frame=frame, status="infinite" if value is None else "ok", **shared)


def density_rows(receipt: Receipt, requested: float | None, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield what share of the attention was asked for and computed, and how many steps and layers stayed dense."""
    if requested is not None:
        yield Measurement(quantity="density_requested", unit="1", value=requested, **key)
    calls = receipt.sparse_calls or receipt.calls
    for protocol, executed, overall in zip(
        ("token", "tile"), receipt.density_executed, receipt.density_overall, strict=True
    ):
        yield Measurement(quantity="density_executed", unit="1", value=executed, protocol=protocol, n=len(calls), **key)
        yield Measurement(
            quantity="density_overall", unit="1", value=overall, protocol=protocol, n=len(receipt.calls), **key
        )
    yield Measurement(quantity="dense_steps", unit="steps", value=receipt.dense_steps, **key)
    yield Measurement(quantity="dense_layers", unit="layers", value=receipt.dense_layers, **key)
    fallbacks = [call.fallback for call in receipt.calls if call.fallback]
    yield Measurement(
        quantity="fallbacks",
        unit="calls",
        value=len(fallbacks),
        n=len(receipt.calls),
        higher_is_better=False,
        reason=fallbacks[0] if fallbacks else None,
        **key,
    )


def call_rows(receipt: Receipt, requested: float | None, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield for every attention call what share was asked for and computed, and by which backend."""
    for call in receipt.calls:
        place = {"step": call.step, "layer": call.layer, "branch": call.branch, "backend": call.backend, **key}
        shares = {"token": call.density_token, "tile": call.density_tile}
        if requested is not None:
            # A dense step or layer was asked for in full; a call that fell back was not.
            shares["requested"] = 1.0 if call.is_dense and call.fallback is None else requested
        for protocol, value in shares.items():
            yield Measurement(
                quantity="call_density", unit="1", value=value, protocol=protocol, reason=call.fallback, **place
            )
    for step, layer, branch in receipt.skipped:
        yield Measurement(
            quantity="call_density",
            unit="1",
            value=None,
            n=0,
            status="skipped",
            reason="a step cache skipped this block",
            step=step,
            layer=layer,
            branch=branch,
            **key,
        )


def cost_rows(made: Generation, dense: Mapping[str, Any], key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield times, memory and speed-ups.

    Args:
        made: The sparse generation.
        dense: The dense twin's ``Generation.timing``, from this machine.
        key: Prompt and seed.
    """
    seconds = {"unit": "s", "higher_is_better": False, **key}
    yield Measurement(quantity="generation_s", value=made.total_s, **seconds)
    yield Measurement(quantity="denoise_s", value=made.denoise_s, **seconds)
    yield Measurement(quantity="decode_s", value=made.decode_s, **seconds)
    yield Measurement(quantity="dense_generation_s", value=dense["total_s"], **seconds)
    yield Measurement(quantity="dense_denoise_s", value=sum(dense["step_s"]), **seconds)
    for step, value in enumerate(made.step_s):
        yield Measurement(quantity="step_s", value=value, step=step, **seconds)
    phases = {name: sum(made.spans.get(name, ())) for name in PHASES}
    phases["rest"] = max(0.0, made.total_s - sum(phases.values()))
    for name, value in phases.items():
        yield Measurement(quantity="phase_s", value=value, protocol=name, **seconds)
    yield from speedup_rows(made, dense, key)
    for quantity, gib in (("peak_memory_gib", made.peak_gib), ("dense_peak_memory_gib", dense["peak_gib"])):
        yield Measurement(quantity=quantity, unit="GiB", value=gib, higher_is_better=False, **key)


def busy_reason(made: Generation, dense: Mapping[str, Any]) -> str | None:
    """Say why a generation's times and its dense twin's do not compare; None where they do.

    Outside of self-attention both do the same work, so it must have taken the same time, give or take a tenth of the
    shorter generation. Where it did not, the machine did something else meanwhile.
    """
    ours = made.total_s - sum(sum(made.spans.get(name, ())) for name in PHASES)
    theirs = dense["total_s"] - sum(dense["attention_s"])
    if abs(ours - theirs) <= MOST_APART * min(made.total_s, dense["total_s"]):
        return None
    return (
        f"the work that both share took {ours:.2f} s in this run and {theirs:.2f} s in its dense twin, more than "
        f"{MOST_APART:.0%} of a generation apart: the machine was busy with something else; run again on a quiet one "
        f"with overwrite=true"
    )


def speedup_rows(made: Generation, dense: Mapping[str, Any], key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield how many times faster than the dense twin: all of it, denoising, and attention in the sparse calls."""
    faster = {"unit": "1", "higher_is_better": True, **key}
    reason = busy_reason(made, dense)
    if reason is not None:
        names = ["speedup", "denoise_speedup"]
        names += ["attention_speedup", "attention_call_speedup"] if made.receipt.sparse_calls else []
        for name in names:
            yield Measurement(quantity=name, value=None, n=0, status="unavailable", reason=reason, **faster)
        return
    yield Measurement(quantity="speedup", value=dense["total_s"] / made.total_s, **faster)
    yield Measurement(quantity="denoise_speedup", value=sum(dense["step_s"]) / made.denoise_s, **faster)
    attention, twin = made.spans.get("attention", []), dense["attention_s"]
    calls = made.receipt.calls
    assert len(attention) == len(calls), "one attention span per call"
    if len(twin) != len(calls):
        reason = f"{len(calls)} attention calls, and {len(twin)} in the dense twin: a step cache skipped others there"
        for name in ("attention_speedup", "attention_call_speedup"):
            yield Measurement(quantity=name, value=None, n=0, status="unavailable", reason=reason, **faster)
        return
    sparse = [index for index, call in enumerate(calls) if not call.is_dense]
    if not sparse:
        return
    full, alone = sum(twin[index] for index in sparse), sum(attention[index] for index in sparse)
    overhead = sum(sum(made.spans.get(name, ())) for name in ("profiling", "reordering"))
    yield Measurement(quantity="attention_speedup", value=full / alone, n=len(sparse), **faster)
    yield Measurement(quantity="attention_call_speedup", value=full / (alone + overhead), n=len(sparse), **faster)


def head_rows(receipt: Receipt, key: Mapping[str, Any]) -> Iterator[Measurement]:
    """Yield each head's choice, its patterns' errors and the margin between them, for every sparse call."""
    for call in receipt.sparse_calls:
        for item, heads in enumerate(call.choice):
            branch = branch_of(call.branch, call.item_branches, item, len(call.choice))
            for head, choice in enumerate(heads):
                place = {"step": call.step, "layer": call.layer, "head": head, "branch": branch, **key}
                if choice in CHOICES:
                    yield Measurement(quantity="head_choice", unit="pattern", value=CHOICES[choice], **place)
                yield from _error_rows(call, item, head, place)


def branch_of(branch: str, names: tuple[str, ...], item: int, items: int) -> str:
    """Return the branch of a batch item; where several items have one, or it has no name, with its place.

    Args:
        branch: Of the forward.
        names: Of its items, where it holds several branches.
        item: Place in the batch.
        items: How many there are to tell apart; 1 where they share.
    """
    if items == 1:
        return names[0] if len(names) == 1 else branch
    name = names[item] if names else branch
    return f"{name}{item}" if not names or names.count(name) > 1 else name


def _error_rows(call: Call, item: int, head: int, place: Mapping[str, Any]) -> Iterator[Measurement]:
    errors = {name: values[item][head] for name, values in call.error.items()}
    shared: dict[str, Any] = {"unit": "1", "quantity": "head_error", "higher_is_better": False, **place}
    for name, value in errors.items():
        if math.isfinite(value):
            yield Measurement(value=value, protocol=name, **shared)
        else:
            # The reference code profiles masks in which some rows keep nothing.
            reason = "a sampled row keeps no key under this pattern's mask"
            yield Measurement(value=None, n=0, protocol=name, status="unavailable", reason=reason, **shared)
    if len(errors) == 2 and all(map(math.isfinite, errors.values())):
        low, high = sorted(errors.values())
        yield Measurement(quantity="head_margin", unit="1", value=(high - low) / high if high else 0.0, **place)
