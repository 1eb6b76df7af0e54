"""Which steps and layers of a sparse run stay dense, and how the reference code's thresholds become counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DenseSchedule:
    """The first ``dense_steps`` steps and the first ``dense_layers`` layers are computed with full attention."""

    dense_steps: int
    dense_layers: int

    def is_dense(self, step: int, layer: int) -> bool:
        return step < self.dense_steps or layer < self.dense_layers


def count_of_fraction(name: str, fraction: float, total: int) -> int:
    """Return floor(fraction * total), exact for decimal fractions such as 0.29 of 100.

    Raises:
        ValueError: If ``fraction`` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"method.{name} is {fraction}; it must be in [0, 1]")
    return math.floor(fraction * total + 1e-9)


def by_step_index(first_times_fp: float, first_layers_fp: float, num_steps: int, num_layers: int) -> DenseSchedule:
    """Return the schedule in which both knobs are shares of a count: our default."""
    return DenseSchedule(
        count_of_fraction("first_times_fp", first_times_fp, num_steps),
        count_of_fraction("first_layers_fp", first_layers_fp, num_layers),
    )


def by_timestep_value(
    first_times_fp: float,
    first_layers_fp: float,
    timesteps: Sequence[float],
    num_layers: int,
    reference_timesteps: Sequence[float] | None = None,
    margin: float = 1.0,
) -> DenseSchedule:
    """Return the schedule of the reference code since September 2025: a timestep above a threshold is dense.

    The threshold is the timestep of the last step meant to be dense, less ``margin``, read from a scheduler of the
    reference's own, which for HunyuanVideo has another grid than the pipeline.

    Args:
        first_times_fp: Share of the steps, in [0, 1].
        first_layers_fp: Share of the layers, in [0, 1].
        timesteps: What the transformer is given, step by step, after any cast to bf16.
        num_layers: Self-attention layers of the transformer.
        reference_timesteps: The grid of the threshold; ``timesteps`` if not given.
        margin: 1 for Wan and HunyuanVideo, 0.01 for Cosmos.
    """
    grid = timesteps if reference_timesteps is None else reference_timesteps
    count = count_of_fraction("first_times_fp", first_times_fp, len(grid))
    threshold = float(grid[count - 1]) - margin if count else 1001.0
    return _above(threshold, timesteps, count_of_fraction("first_layers_fp", first_layers_fp, num_layers))


def flow_match_euler_timesteps(num_steps: int, flow_shift: float) -> list[float]:
    """Return the grid of diffusers' FlowMatchEulerDiscreteScheduler when it is asked for a number of steps only.

    HunyuanVideo's pipeline asks for sigmas of its own instead; the reference code reads its threshold from this grid.
    """

    def shifted(sigma: float) -> float:
        return flow_shift * sigma / (1 + (flow_shift - 1) * sigma)

    last = shifted(1 / 1000)
    steps = max(num_steps - 1, 1)
    return [1000 * shifted(1 + (last - 1) * step / steps) for step in range(num_steps)]


def by_timestep_share(
    first_times_fp: float, first_layers_fp: float, timesteps: Sequence[float], upstream_num_layers: int = 42
) -> DenseSchedule:
    """Return the schedule of the reference code before September 2025, and of its CogVideoX path still.

    Dense where timestep > 1000 * (1 - first_times_fp) or layer < 42 * first_layers_fp: 42 is CogVideoX's layer count,
    fixed for every model.
    """
    count_of_fraction("first_times_fp", first_times_fp, 1)
    count_of_fraction("first_layers_fp", first_layers_fp, 1)
    return _above(1000 * (1 - first_times_fp), timesteps, math.ceil(upstream_num_layers * first_layers_fp - 1e-9))


def _above(threshold: float, timesteps: Sequence[float], dense_layers: int) -> DenseSchedule:
    dense = [float(timestep) > threshold for timestep in timesteps]
    steps = dense.index(False) if False in dense else len(dense)
    if any(dense[steps:]):
        raise ValueError("timesteps must fall from step to step for a threshold on their value to mean first steps")
    return DenseSchedule(steps, dense_layers)
