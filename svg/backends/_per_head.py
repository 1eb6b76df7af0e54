"""What backends read from a plan on the host: whether it fits the tensors, each head's pattern, each item's keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from svg.pattern_integers import has_integers
from svg.plan import AttentionPlan, HeadPattern


def check_fits(name: str, query: torch.Tensor, plan: AttentionPlan) -> None:
    """Raise ``ValueError`` unless the plan's batch, heads and lengths are those of ``query``.

    Values of tensors on a device are not read, which would wait for it.

    Args:
        name: The backend that asks, for the message.
        query: ``(batch, num_heads, seq_len, head_dim)``.
        plan: The plan it was handed.
    """
    if query.ndim != 4:
        raise ValueError(
            f"{name} got a query of shape {tuple(query.shape)}; it must be (batch, num_heads, seq_len, head_dim)"
        )
    if not query.is_floating_point():
        raise ValueError(f"{name} got a query of {query.dtype}; it must be floating point")
    batch, num_heads, seq_len, _ = query.shape
    shape, num_patterns = tuple(plan.assignment.shape), len(plan.patterns)
    if len(shape) != 2 or shape[0] not in (1, batch) or shape[1] not in (1, num_heads):
        raise ValueError(
            f"{name} got a plan whose assignment is {shape}, but the query has batch {batch} and {num_heads} heads; "
            f"it must be (batch, num_heads), either 1 where shared"
        )
    if plan.assignment.is_cpu and not bool(((plan.assignment >= 0) & (plan.assignment < num_patterns)).all()):
        raise ValueError(
            f"{name} got a plan that assigns patterns {plan.assignment.unique().tolist()}; its palette has "
            f"{num_patterns}, counted from 0"
        )
    for pattern in plan.patterns:
        mask = pattern.mask
        if mask is not None and (mask.query_len, mask.key_len) != (seq_len, seq_len):
            raise ValueError(
                f"{name} got a {pattern.name!r} mask of {mask.query_len} queries x {mask.key_len} keys, but seq_len "
                f"is {seq_len}; build the mask from this call's layout"
            )
    lengths = plan.key_lengths
    if lengths is not None and tuple(lengths.shape) != (batch,):
        raise ValueError(
            f"{name} got key_lengths of shape {tuple(lengths.shape)}; it must be ({batch},), one a batch item"
        )
    if lengths is not None and lengths.is_cpu and not bool(((lengths >= 0) & (lengths <= seq_len)).all()):
        raise ValueError(f"{name} got key_lengths {lengths.tolist()}; they must be between 0 and seq_len, {seq_len}")


def check_tensors(name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Raise ``ValueError`` unless key and value have the shape, the dtype and the device of ``query``."""
    for role, x in (("key", key), ("value", value)):
        if (x.shape, x.dtype, x.device) != (query.shape, query.dtype, query.device):
            raise ValueError(
                f"{name} got a {role} of shape {tuple(x.shape)}, {x.dtype}, on {x.device}; it must be like the query: "
                f"{tuple(query.shape)}, {query.dtype}, on {query.device}"
            )


def key_limits(plan: AttentionPlan, batch: int, seq_len: int) -> list[int]:
    """Return how many keys each batch item has. Waits for the device unless ``plan.key_lengths`` is on the CPU."""
    if plan.key_lengths is None:
        return [seq_len] * batch
    return plan.key_lengths.clamp(0, seq_len).tolist()


def check_bands(name: str, plan: AttentionPlan, able: str) -> None:
    """Raise ``ValueError`` if a mask has partial tiles of anything but a band, naming backends that are able."""
    if not all(has_integers(pattern.mask) for pattern in plan.patterns):
        raise ValueError(
            f"{name} computes partial tiles of a band only, and method.layout_transform=false leaves others; use "
            f"backend={able}"
        )


def heads_by_pattern(
    plan: AttentionPlan, batch: int, num_heads: int, seq_len: int
) -> Iterator[tuple[int, HeadPattern, list[int], int]]:
    """Yield (batch index, pattern, the heads that take it, number of keys), every head once."""
    assignment = plan.assignment.expand(batch, num_heads).tolist()
    for item, (chosen, limit) in enumerate(zip(assignment, key_limits(plan, batch, seq_len), strict=True)):
        for index in sorted(set(chosen)):
            yield item, plan.patterns[index], [head for head in range(num_heads) if chosen[head] == index], limit
