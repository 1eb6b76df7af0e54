"""A method that notes, at every plan, in which process it runs and how often that process has loaded a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from experiments import loading
from svg.methods.svg import SparseVideoGen

# Names the file to write to, in the environment, which every launcher hands to its processes.
FILE = "SVG_TEST_LOADS"


@dataclass(frozen=True, kw_only=True)
class CountedLoads(SparseVideoGen):
    """Sparse VideoGen that is watched."""

    def plan(self, inputs, context):
        with Path(os.environ[FILE]).open("a") as file:
            file.write(f"{os.getpid()} {loading._load.cache_info().misses}\n")
        return super().plan(inputs, context)


def loads_by_process(file: Path) -> dict[str, int]:
    """Return how often each process has loaded a model."""
    return {process: int(count) for process, count in map(str.split, file.read_text().splitlines())}
