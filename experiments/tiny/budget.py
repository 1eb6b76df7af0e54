"""Training by the clock: how much of a time budget is spent, and one line of progress now and then."""

from __future__ import annotations

import time

from experiments.tiny.ranks import Ranks


class Budget:
    """A share of wall-clock time, which may have been partly spent in earlier pieces.

    The clock is read by ``tick`` and stands still between two ticks, so that processes that train together agree.

    Args:
        seconds: The whole budget.
        spent: Seconds spent in earlier pieces.
        piece: Seconds that this piece may take; the rest of the budget if not given.
        ranks: The processes that share it; rank 0's clock holds.
    """

    def __init__(
        self, seconds: float, spent: float = 0.0, piece: float | None = None, ranks: Ranks | None = None
    ) -> None:
        self.seconds, self._spent_before = seconds, spent
        self._piece = seconds - spent if piece is None else min(piece, seconds - spent)
        self._ranks = ranks or Ranks()
        self._started = time.perf_counter()
        # Seconds since this piece began, at the last tick.
        self.elapsed = 0.0

    def tick(self) -> bool:
        """Read the clock; return whether time is left."""
        self.elapsed = self._ranks.agree(time.perf_counter() - self._started)
        return not self.is_spent

    @property
    def spent(self) -> float:
        return self._spent_before + self.elapsed

    @property
    def share(self) -> float:
        """Spent share of the whole budget, in [0, 1]."""
        return min(1.0, self.spent / self.seconds)

    @property
    def left(self) -> float:
        """Seconds left of this piece, at least 0."""
        return max(0.0, self._piece - self.elapsed)

    @property
    def is_spent(self) -> bool:
        """Whether this piece is over."""
        return self.elapsed >= self._piece


def report(budget: Budget, what: str, step: int, **values: float) -> None:
    """Print one line of progress."""
    shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"{what} {budget.spent:6.0f}/{budget.seconds:.0f} s step {step} {shown}", flush=True)
