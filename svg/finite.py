"""Whether the outputs of attention calls are finite: noted on the device call by call, read there once a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from svg.context import AttentionContext


@dataclass
class FiniteWatch:
    """Finds the first call whose output holds NaN or infinity.

    Args:
        gather: Returns everyone's argument, where processes share the heads of every call: what one of them finds then
            ends them all, and none waits for it. None: this process has all heads.
    """

    gather: Callable[[Any], list[Any]] | None = None
    _calls: list[tuple[str, str]] = field(default_factory=list)
    _sums: list[torch.Tensor] = field(default_factory=list)

    def note(self, backend: str, context: AttentionContext, output: torch.Tensor) -> None:
        """Remember one call's output by its sum; does not wait for the device."""
        self._calls.append((backend, f"step {context.step}, layer {context.layer}, branch {context.branch}"))
        self._sums.append(output.sum(dtype=torch.float32))

    def check(self) -> None:
        """Forget the calls so far; waits for the device, and for the other processes, if there are any.

        Raises:
            ValueError: If an output was not finite: where, and of which backend.
        """
        calls, sums = self._calls, self._sums
        self._calls, self._sums = [], []
        if not sums:
            return
        first = (*torch.stack(sums).isfinite().tolist(), False).index(False)
        if self.gather is not None:
            first = min(self.gather(first))
        if first < len(calls):
            backend, place = calls[first]
            raise ValueError(
                f"{place}: the output of {backend} holds NaN or infinity, as its query, key or value does; set "
                f"precision=bf16 to see what the model itself gives, or strict=False to go on"
            )
