"""Clocks, power and temperature of a GPU while something runs on it, as ``nvidia-smi`` reports them."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass, field
from types import TracebackType

import torch

# What nvidia-smi calls each quantity.
FIELDS = {
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
}
PERIOD_S = 0.5


@dataclass
class GpuClocks:
    """Samples a GPU twice a second inside a with block, and once at the end of a shorter one.

    Args:
        device: Where the work runs; no GPU, or no nvidia-smi, gives no samples.
    """

    device: torch.device
    samples: dict[str, list[float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> GpuClocks:
        if self.device.type == "cuda":
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(self.device).uuid}"
            query = f"--query-gpu={','.join(FIELDS.values())}"
            command = ["nvidia-smi", gpu, query, "--format=csv,noheader,nounits"]
            self._thread = threading.Thread(target=self._sample, args=(command,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self, command: list[str]) -> None:
        while not self._stop.wait(PERIOD_S) or not self.samples:
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            except (OSError, subprocess.SubprocessError):
                return
            for name, value in parse(done.stdout).items():
                self.samples.setdefault(name, []).append(value)
            if self._stop.is_set():
                return


def parse(line: str) -> dict[str, float]:
    """Return the numbers in a line of nvidia-smi's, by quantity; what the GPU does not report is left out."""
    parts = zip(FIELDS, (part.strip() for part in line.split(",")), strict=False)
    return {name: float(part) for name, part in parts if part.replace(".", "", 1).isdigit()}
