"""What really ran: per attention call the backend, the plan's density, the choice of every head and its errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from svg.context import AttentionContext
from svg.plan import AttentionPlan


@dataclass(frozen=True)
class Call:
    """One self-attention call.

    Densities are shares of all query-key pairs: kept token by token, and computed tile by tile. ``choice`` is the name
    of each head's pattern, ``[batch][head]``; ``error`` maps a pattern's name to its error, ``[batch][head]``, where
    the method profiled. ``fallback`` says why a sparse call ran dense; None where it did not.
    """

    step: int
    layer: int
    branch: str
    backend: str
    is_dense: bool
    density_token: float
    density_tile: float
    choice: list[list[str]]
    error: dict[str, list[list[float]]]
    fallback: str | None = None


@dataclass
class Receipt:
    """The calls of one generation, in order. Tensors stay on the device until ``calls`` is read."""

    dense_steps: int = 0
    dense_layers: int = 0
    num_steps: int = 0
    num_layers: int = 0
    _pending: list[tuple[AttentionContext, str, AttentionPlan, int, str | None]] = field(default_factory=list)
    _calls: list[Call] = field(default_factory=list)

    def record(self, context: AttentionContext, backend: str, plan: AttentionPlan, fallback: str | None = None) -> None:
        """Note one call; does not wait for the device."""
        self._pending.append((context, backend, plan, context.layout.seq_len, fallback))

    @property
    def calls(self) -> list[Call]:
        """All calls so far, read from the device once."""
        self._calls.extend(_resolve(*entry) for entry in self._pending)
        self._pending.clear()
        return self._calls

    @property
    def sparse_calls(self) -> list[Call]:
        return [call for call in self.calls if not call.is_dense]

    @property
    def density_executed(self) -> tuple[float, float]:
        """Mean density over the sparse calls, (token, tile); (1, 1) where every call was dense."""
        return _mean_density(self.sparse_calls)

    @property
    def density_overall(self) -> tuple[float, float]:
        """Mean density over all calls, dense steps and layers included, (token, tile)."""
        return _mean_density(self.calls)


def _mean_density(calls: list[Call]) -> tuple[float, float]:
    if not calls:
        return 1.0, 1.0
    token = sum(call.density_token for call in calls) / len(calls)
    return token, sum(call.density_tile for call in calls) / len(calls)


def _resolve(context: AttentionContext, backend: str, plan: AttentionPlan, seq_len: int, fallback: str | None) -> Call:
    token, tile = plan.density(seq_len)
    names = [pattern.name for pattern in plan.patterns]
    error: dict[str, Any] = {}
    if "error" in plan.diagnostics:
        by_pattern: torch.Tensor = plan.diagnostics["error"]
        error = {name: by_pattern[index].tolist() for index, name in enumerate(names)}
    return Call(
        step=context.step,
        layer=context.layer,
        branch=context.branch,
        backend=backend,
        is_dense=plan.is_dense,
        density_token=float(token),
        density_tile=float(tile),
        choice=[[names[index] for index in heads] for heads in plan.assignment.tolist()],
        error=error,
        fallback=fallback,
    )
