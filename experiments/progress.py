"""One progress bar for a whole run, with the time left; silent where nobody watches."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """Counts denoising steps, and decoding as so many more.

    Args:
        label: What stands before the bar.
        total: Steps in all.
    """

    def __init__(self, label: str, total: int) -> None:
        # None: only where standard error is a terminal.
        self._bar = tqdm(total=total, desc=label, unit="step", disable=None, leave=False, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def say(self, what: str) -> None:
        """Show what is being done now."""
        self._bar.set_postfix_str(what)

    def step(self, steps: int = 1) -> None:
        """Count steps done."""
        self._bar.update(steps)
