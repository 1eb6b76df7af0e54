"""Checks what a backend computed against plain attention on a few queries, before its time is believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from svg.plan import AttentionPlan, HeadPattern

# Greatest error allowed, as a share of the greatest value: a few times the rounding of one product of this type.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
# Of attention in FP8, where each number is rounded by up to a sixteenth.
TOLERANCE_FP8 = 0.125
ROWS = 32


class AttentionError(NamedTuple):
    """How far an output is from plain attention in float64.

    Args:
        greatest: Greatest difference.
        allowed: How much of it rounding may explain.
        relative: Root mean square of the difference over that of the exact output; 0 where both are zero.
    """

    greatest: float
    allowed: float
    relative: float


@dataclass
class CheckedBackend:
    """Runs a backend and compares outputs with plain attention on sampled queries, until every pattern was tried.

    A pattern is known by what it is and not by its name: masks that are made anew for every call are checked anew.

    Raises ``RuntimeError`` at the first output that is wrong. For warm-ups; not for what is timed. ``error`` is the
    greatest found so far, ``allowed`` what rounding may explain there, ``relative_error`` the greatest of any call.
    """

    backend: Any
    name: str = ""
    checked: int = 0
    error: float = 0.0
    allowed: float = 0.0
    relative_error: float = 0.0
    _seen: WeakSet[HeadPattern] = field(default_factory=WeakSet)

    def __post_init__(self) -> None:
        self.name = self.name or self.backend.name

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        self.backend.check(query, plan)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        output = self.backend(query, key, value, plan)
        if self._is_untried(plan):
            self._compare(query, key, value, plan, output)
        return output

    @property
    def orders_keys(self) -> bool:
        return getattr(self.backend, "orders_keys", False)

    def attend_unordered(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        output = self.backend.attend_unordered(query, key, value, plan)
        if self._is_untried(plan):
            self._compare(query, *plan.arrange_keys(key, value), plan, output)
        return output

    def _is_untried(self, plan: AttentionPlan) -> bool:
        """Return whether a head has a pattern that was compared in no call before."""
        return not _taken(plan) <= set(self._seen)

    def _compare(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: AttentionPlan,
        output: torch.Tensor,
    ) -> None:
        self._seen |= _taken(plan)
        self.checked += 1
        tolerance = TOLERANCE_FP8 if getattr(self.backend, "precision", "bf16") != "bf16" else None
        error, allowed, relative = attention_error(query, key, value, plan, output, tolerance)
        # Written so that a NaN fails.
        if not error <= allowed:
            raise RuntimeError(
                f"backend {self.name} is wrong on this machine: its output differs from plain attention by "
                f"{error:.3g}, at most {allowed:.3g} is rounding; its time means nothing"
            )
        self.relative_error = max(self.relative_error, relative)
        if error >= self.error:
            self.error, self.allowed = error, allowed


def _taken(plan: AttentionPlan) -> set[HeadPattern]:
    """Return the patterns that heads have."""
    return {plan.patterns[index] for index in plan.assignment.unique().tolist()}


def attention_error(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: AttentionPlan,
    output: torch.Tensor,
    tolerance: float | None = None,
) -> AttentionError:
    """Return the error of ``output`` on evenly spaced queries.

    All tensors are ``(batch, num_heads, seq_len, head_dim)`` in the plan's order. ``tolerance`` is the share of the
    greatest value that may be rounding; None takes that of the query's dtype.
    """
    tolerance = TOLERANCE[query.dtype] if tolerance is None else tolerance
    batch, num_heads, seq_len, head_dim = query.shape
    rows = torch.linspace(0, seq_len - 1, min(ROWS, seq_len), device=query.device).round().long()
    keys = torch.arange(seq_len, device=query.device)
    keeps = torch.stack(
        [
            torch.ones(len(rows), seq_len, dtype=torch.bool, device=query.device)
            if pattern.mask is None
            else pattern.mask.keep(rows[:, None], keys[None, :])
            for pattern in plan.patterns
        ]
    )
    keep = keeps[plan.assignment.to(query.device).expand(batch, num_heads)]
    if plan.key_lengths is not None:
        keep = keep & (keys < plan.key_lengths.to(query.device)[:, None])[:, None, None, :]
    error = allowed = squares = exact_squares = 0.0
    for item in range(batch):
        for head in range(num_heads):
            scores = query[item, head, rows].double() @ key[item, head].double().T * head_dim**-0.5
            scores = scores.masked_fill(~keep[item, head], -torch.inf)
            expected = scores.softmax(-1).nan_to_num(0) @ value[item, head].double()
            off = output[item, head, rows].double() - expected
            difference = off.abs().max().item()
            if difference != difference:
                return AttentionError(difference, tolerance, difference)
            squares += off.square().sum().item()
            exact_squares += expected.square().sum().item()
            error = max(error, difference)
            allowed = max(allowed, tolerance * value[item, head].abs().max().item())
    return AttentionError(error, allowed, (squares / exact_squares) ** 0.5 if squares else 0.0)
