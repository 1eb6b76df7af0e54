"""Training by the clock: how much of a time budget is spent, and one line of progress now and then."""

from __future__ import annotations

import time


class Budget:
    """A share of wall-clock time, which may have been partly spent in earlier pieces.

    Args:
        seconds: The whole budget.
        spent: Seconds spent in earlier pieces.
        piece: Seconds that this piece may take; the rest of the budget if not given.
    """

    def __init__(self, seconds: float, spent: float = 0.0, piece: float | None = None) -> None:
        self.seconds, self._spent_before = seconds, spent
        self._piece = seconds - spent if piece is None else min(piece, seconds - spent)
        self._started = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since this piece began."""
        return time.perf_counter() - self._started

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
