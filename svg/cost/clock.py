"""Clocks that do not slow what they time: the performance counter on a CPU, events read afterwards on a CUDA GPU."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

# What PyTorch's profiler calls a phase: this and its name.
PHASE = "svg phase "


@dataclass
class Clock:
    """Takes marks and gives the seconds between them; no mark waits for the device.

    Args:
        device: Where the work runs. CUDA marks are events on its current stream.
    """

    device: torch.device

    def mark(self) -> Any:
        """Return a mark of this moment in the device's work."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, stop: Any) -> float:
        """Return the seconds between two marks; on a GPU only after ``wait``."""
        return stop - start if self.device.type != "cuda" else start.elapsed_time(stop) / 1000

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class PhaseClock:
    """The clock that ``svg.attach(phases=...)`` takes: notes every phase of every attention call, in order.

    Args:
        clock: Takes the marks.
        tells_profiler: Whether PyTorch's profiler sees phases, too; that costs more than a mark.
    """

    clock: Clock
    tells_profiler: bool = False
    _spans: list[tuple[str, Any, Any]] = field(default_factory=list)

    def phase(self, name: str) -> _Span:
        """Return a context manager that times its block as one span of the phase ``name``."""
        return _Span(self, name)

    def spans(self) -> dict[str, list[float]]:
        """Return the seconds of every span by phase, in the order in which they ran; waits for the device."""
        self.clock.wait()
        seconds: dict[str, list[float]] = {}
        for name, start, stop in self._spans:
            seconds.setdefault(name, []).append(self.clock.seconds(start, stop))
        return seconds


class _Span:
    __slots__ = ("_clock", "_label", "_name", "_start")

    def __init__(self, clock: PhaseClock, name: str) -> None:
        self._clock, self._name = clock, name
        named = clock.tells_profiler
        self._label = torch.profiler.record_function(f"{PHASE}{name}") if named else nullcontext()

    def __enter__(self) -> None:
        self._label.__enter__()
        self._start = self._clock.clock.mark()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clock._spans.append((self._name, self._start, self._clock.clock.mark()))
        self._label.__exit__(kind, error, traceback)
