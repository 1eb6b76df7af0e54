"""What really ran: per attention call the backend, the plan's density, the choice of every head and its errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from svg.context import AttentionContext
from svg.plan import AttentionPlan


@dataclass(frozen=True)
class Call:
    """One self-attention call.

    Densities are shares of all query-key pairs: kept token by token, and computed tile by tile. ``choice`` is the name
    of each head's pattern, ``[batch][head]``; ``error`` maps a pattern's name to its error, ``[batch][head]``, where
    the method profiled. ``fallback`` says why a sparse call ran dense; None where it did not. ``item_branches`` names
    the branch of each batch item where one forward holds several.
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
    item_branches: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampledCall:
    """One call that was measured for statistics: where it stands, and what ``Statistics.measure`` returned of it.

    ``transformer`` is which of the pipeline's it belongs to, from 0.
    """

    step: int
    layer: int
    branch: str
    statistics: Any
    item_branches: tuple[str, ...] = ()
    transformer: int = 0


@dataclass
class Receipt:
    """The calls of one generation, in order. Tensors stay on the device until ``calls`` is read; plans are let go."""

    dense_steps: int = 0
    dense_layers: int = 0
    num_steps: int = 0
    num_layers: int = 0
    # What the transformer is given at each step.
    timesteps: list[float] = field(default_factory=list)
    # Step, branch and layers of every forward of a transformer.
    forwards: list[tuple[int, str, int]] = field(default_factory=list)
    # The calls that were measured for statistics, in order.
    sampled: list[SampledCall] = field(default_factory=list)
    _pending: list[_Pending] = field(default_factory=list)
    _calls: list[Call] = field(default_factory=list)

    def record(
        self,
        context: AttentionContext,
        backend: str,
        plan: AttentionPlan,
        fallback: str | None = None,
        item_branches: tuple[str, ...] = (),
    ) -> None:
        """Note one call; does not wait for the device."""
        self._pending.append(
            _Pending(
                context.step,
                context.layer,
                context.branch,
                backend,
                plan.is_dense,
                [pattern.name for pattern in plan.patterns],
                plan.shares(context.layout.seq_len),
                plan.assignment,
                plan.diagnostics.get("error"),
                fallback,
                item_branches,
            )
        )

    @property
    def calls(self) -> list[Call]:
        """All calls so far, read from the device once."""
        self._calls.extend(entry.resolve() for entry in self._pending)
        self._pending.clear()
        return self._calls

    def on_host(self) -> Receipt:
        """Return this receipt with nothing on a device, so that another process can read it."""
        sampled = [replace(call, statistics=call.statistics.on_host()) for call in self.sampled]
        return replace(self, sampled=sampled, _calls=list(self.calls), _pending=[])

    def join(self, parts: Sequence[Receipt]) -> None:
        """Take the calls of several processes, each with heads of its own, in the order of the heads."""
        self._pending.clear()
        self._calls[:] = [_joined(calls) for calls in zip(*(part.calls for part in parts), strict=True)]
        self.sampled = [
            replace(calls[0], statistics=calls[0].statistics.join([call.statistics for call in calls[1:]]))
            for calls in zip(*(part.sampled for part in parts), strict=True)
        ]

    @property
    def skipped(self) -> list[tuple[int, int, str]]:
        """Step, layer and branch of each call that a forward should have made and did not: a step cache skipped it."""
        ran = {(call.step, call.layer, call.branch) for call in self.calls}
        places = [(step, layer, branch) for step, branch, layers in self.forwards for layer in range(layers)]
        return [place for place in places if place not in ran]

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


@dataclass(frozen=True)
class _Pending:
    """A call whose tensors are still on the device; holds no mask, which a method may make anew for every call.

    ``shares`` is ``AttentionPlan.shares``'s.
    """

    step: int
    layer: int
    branch: str
    backend: str
    is_dense: bool
    names: list[str]
    shares: list[list[tuple[float, float]]]
    assignment: torch.Tensor
    error: torch.Tensor | None
    fallback: str | None
    item_branches: tuple[str, ...]

    def resolve(self) -> Call:
        assignment = self.assignment.tolist()
        rows = max(len(self.shares), len(assignment))
        chosen = [
            self.shares[row % len(self.shares)][index]
            for row in range(rows)
            for index in assignment[row % len(assignment)]
        ]
        return Call(
            step=self.step,
            layer=self.layer,
            branch=self.branch,
            backend=self.backend,
            is_dense=self.is_dense,
            density_token=math.fsum(token for token, _ in chosen) / len(chosen),
            density_tile=math.fsum(tile for _, tile in chosen) / len(chosen),
            choice=[[self.names[index] for index in heads] for heads in assignment],
            error={} if self.error is None else dict(zip(self.names, self.error.tolist(), strict=True)),
            fallback=self.fallback,
            item_branches=self.item_branches,
        )


def _joined(calls: Sequence[Call]) -> Call:
    """Return one call whose heads several processes have computed, equally many each."""
    # Where a process fell back to dense attention, the call is told as one that did.
    told = next((call for call in calls if call.fallback is not None), calls[0])
    return replace(
        told,
        density_token=math.fsum(call.density_token for call in calls) / len(calls),
        density_tile=math.fsum(call.density_tile for call in calls) / len(calls),
        choice=_beside([call.choice for call in calls]),
        error={name: _beside([call.error[name] for call in calls]) for name in told.error},
    )


def _beside(parts: Sequence[list[list[Any]]]) -> list[list[Any]]:
    """Return ``[batch][head]`` of the heads of all parts."""
    return [[one for heads in item for one in heads] for item in zip(*parts, strict=True)]


def _mean_density(calls: list[Call]) -> tuple[float, float]:
    if not calls:
        return 1.0, 1.0
    token = math.fsum(call.density_token for call in calls) / len(calls)
    return token, math.fsum(call.density_tile for call in calls) / len(calls)
