"""What backends read from a plan on the host: whether it fits the tensors, each head's pattern, each item's keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from svg.plan import AttentionPlan, HeadPattern


def check_fits(name: str, query: torch.Tensor, plan: AttentionPlan) -> None:
    """Raise ``ValueError`` unless the plan's batch, heads and lengths are those of ``query``.

    Args:
        name: The backend that asks, for the message.
        query: ``(batch, num_heads, seq_len, head_dim)``.
        plan: The plan it was handed.
    """
    batch, num_heads, seq_len, _ = query.shape
    rows, columns = plan.assignment.shape
    if rows not in (1, batch) or columns not in (1, num_heads):
        raise ValueError(
            f"{name} got a plan for batch {rows} and {columns} heads, but the query has batch {batch} and "
            f"{num_heads} heads; either must be equal or 1"
        )
    for pattern in plan.patterns:
        mask = pattern.mask
        if mask is not None and (mask.query_len, mask.key_len) != (seq_len, seq_len):
            raise ValueError(
                f"{name} got a {pattern.name!r} mask of {mask.query_len} queries x {mask.key_len} keys, but seq_len "
                f"is {seq_len}; build the mask from this call's layout"
            )
    if plan.key_lengths is not None and tuple(plan.key_lengths.shape) != (batch,):
        raise ValueError(
            f"{name} got key_lengths of shape {tuple(plan.key_lengths.shape)}; it must be ({batch},), one a batch item"
        )


def key_limits(plan: AttentionPlan, batch: int, seq_len: int) -> list[int]:
    """Return how many keys each batch item has. Waits for the device unless ``plan.key_lengths`` is on the CPU."""
    if plan.key_lengths is None:
        return [seq_len] * batch
    return plan.key_lengths.clamp(0, seq_len).tolist()


def heads_by_pattern(
    plan: AttentionPlan, batch: int, num_heads: int, seq_len: int
) -> Iterator[tuple[int, HeadPattern, list[int], int]]:
    """Yield (batch index, pattern, the heads that take it, number of keys), every head once."""
    assignment = plan.assignment.expand(batch, num_heads).tolist()
    for item, (chosen, limit) in enumerate(zip(assignment, key_limits(plan, batch, seq_len), strict=True)):
        for index in sorted(set(chosen)):
            yield item, plan.patterns[index], [head for head in range(num_heads) if chosen[head] == index], limit
