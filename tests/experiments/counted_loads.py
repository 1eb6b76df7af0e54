"""A method that notes, at every plan, in which process it runs and how often that process has loaded a model."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments import loading
from svg.methods.svg import SparseVideoGen

# Names the file to write to, in the environment, which every launcher hands to its processes.
FILE = "SVG_TEST_LOADS"


@dataclass(frozen=True, kw_only=True)
class CountedLoads(SparseVideoGen):
    """Sparse VideoGen that is watched; the first at a density of 0.9 finds ``FILE.kill``, if it is there, and dies."""

    def plan(self, inputs, context):
        if self.sparsity == 0.9:
            with suppress(FileNotFoundError):
                Path(f"{os.environ[FILE]}.kill").unlink()
                # As where memory is short.
                os.kill(os.getpid(), signal.SIGKILL)
        with Path(os.environ[FILE]).open("a") as file:
            file.write(f"{os.getpid()} {loading._load.cache_info().misses}\n")
        return super().plan(inputs, context)


def loads_by_process(file: Path) -> dict[str, int]:
    """Return how often each process has loaded a model."""
    return {process: int(count) for process, count in map(str.split, file.read_text().splitlines())}
