"""What every sparse method has in common: the kept fraction, the dense steps and layers, the size of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from svg import schedule
from svg.context import AttentionContext
from svg.pattern import check_density
from svg.plan import AttentionInputs, AttentionPlan
from svg.schedule import DenseSchedule


@dataclass(frozen=True, kw_only=True)
class SparseMethod:
    """A method: its fields are its hyperparameters, ``plan`` is what it does.

    Args:
        sparsity: Fraction of query-key pairs KEPT, sink and text included, in (0, 1]; the reference code's word.
        density: The same quantity under its usual name; at most one of the two is given.
        first_times_fp: Share of the denoising steps, from the first, that stay dense, in [0, 1].
        first_layers_fp: Share of the layers, from the first, that stay dense, in [0, 1].
        threshold_rule: How the two shares become counts: ``"step_index"`` (ours: floor of the share of the count),
            ``"timestep_value"`` (the reference code since September 2025) or ``"timestep_share"`` (before that).
        block_size: Queries and keys per tile, at least 1; 128 is what GPU kernels want.

    Raises:
        ValueError: If a value is out of its range, or both ``sparsity`` and ``density`` are given.
    """

    sparsity: float | None = None
    density: float | None = None
    first_times_fp: float = 0.0
    first_layers_fp: float = 0.0
    threshold_rule: Literal["step_index", "timestep_value", "timestep_share"] = "step_index"
    block_size: int = 128

    def __post_init__(self) -> None:
        if self.sparsity is not None and self.density is not None:
            raise ValueError(
                f"method.sparsity={self.sparsity} and method.density={self.density} are the same quantity, the "
                f"fraction kept; give one of them"
            )
        if self.sparsity is not None or self.density is not None:
            check_density(self.density_requested)
        schedule.count_of_fraction("first_times_fp", self.first_times_fp, 1)
        schedule.count_of_fraction("first_layers_fp", self.first_layers_fp, 1)
        check_choice("threshold_rule", self.threshold_rule, ("step_index", "timestep_value", "timestep_share"))
        if self.block_size < 1:
            raise ValueError(f"method.block_size is {self.block_size}; it must be at least 1")

    @property
    def density_requested(self) -> float:
        """Fraction of query-key pairs to keep in sparse calls.

        Raises:
            ValueError: If neither ``sparsity`` nor ``density`` is given.
        """
        requested = self.density if self.sparsity is None else self.sparsity
        if requested is None:
            raise ValueError("method.sparsity is not given; it is the fraction kept and must be in (0, 1]")
        return requested

    def dense_schedule(self, num_steps: int, num_layers: int, timesteps: Sequence[float]) -> DenseSchedule:
        """Return which steps and layers stay dense.

        Args:
            num_steps: Denoising steps of the generation.
            num_layers: Self-attention layers of the transformer.
            timesteps: The timestep that the transformer is given at each step.
        """
        if self.threshold_rule == "step_index":
            return schedule.by_step_index(self.first_times_fp, self.first_layers_fp, num_steps, num_layers)
        if self.threshold_rule == "timestep_value":
            return schedule.by_timestep_value(self.first_times_fp, self.first_layers_fp, timesteps, num_layers)
        return schedule.by_timestep_share(self.first_times_fp, self.first_layers_fp, timesteps)

    def plan(self, inputs: AttentionInputs, context: AttentionContext) -> AttentionPlan:
        """Decide what one sparse attention call computes."""
        raise NotImplementedError


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ``ValueError`` unless the setting ``method.<name>`` has one of the allowed values."""
    if value not in allowed:
        raise ValueError(f"method.{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")
