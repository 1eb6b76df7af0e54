"""The grids of timesteps that the schedulers of the model families make, as formulas: no scheduler is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable

# Steps of the training schedule; the timestep of pure noise.
NUM_TRAIN_TIMESTEPS = 1000


def timesteps(grid: str, num_steps: int, flow_shift: float = 1.0) -> list[float]:
    """Return the timestep of each denoising step, before any rounding to the transformer's precision.

    Args:
        grid: ``"unipc_flow"`` (Wan), ``"flow_match"`` (HunyuanVideo), ``"trailing"`` (CogVideoX) or ``"edm"`` (Cosmos).
        num_steps: Denoising steps, at least 1.
        flow_shift: Of the first two; the others have none.

    Raises:
        ValueError: If the grid is unknown.
    """
    if grid not in GRIDS:
        raise ValueError(f"model.transformer.timesteps is {grid!r}; it must be one of {', '.join(GRIDS)}")
    return GRIDS[grid](num_steps, flow_shift)


def shifted(sigma: float, flow_shift: float) -> float:
    """Return a flow's noise level under its shift, both in [0, 1]."""
    return flow_shift * sigma / (1 + (flow_shift - 1) * sigma)


def _unipc_flow(num_steps: int, flow_shift: float) -> list[float]:
    """UniPC on a flow: noise levels from 1 to 1 / 1000, the last left out; whole timesteps, all below 1000."""
    last = 1 / NUM_TRAIN_TIMESTEPS
    sigmas = [shifted(1 + (last - 1) * step / num_steps, flow_shift) for step in range(num_steps)]
    return [float(int(min(sigma, 1 - 1e-6) * NUM_TRAIN_TIMESTEPS)) for sigma in sigmas]


def _flow_match(num_steps: int, flow_shift: float) -> list[float]:
    """Flow matching from the pipeline's own noise levels: from 1 in equal steps, 0 left out."""
    return [NUM_TRAIN_TIMESTEPS * shifted(1 - step / num_steps, flow_shift) for step in range(num_steps)]


def _trailing(num_steps: int, flow_shift: float) -> list[float]:
    """DDIM and DPM with trailing spacing: from 999 in equal steps."""
    return [float(round(NUM_TRAIN_TIMESTEPS * (1 - step / num_steps)) - 1) for step in range(num_steps)]


def _edm(num_steps: int, flow_shift: float) -> list[float]:
    """EDM: a quarter of the logarithm of noise levels from 80 to 0.002, evenly spaced in their seventh root."""
    most, least = 80 ** (1 / 7), 0.002 ** (1 / 7)
    ramp = [step / max(num_steps - 1, 1) for step in range(num_steps)]
    return [0.25 * math.log((most + share * (least - most)) ** 7) for share in ramp]


GRIDS: dict[str, Callable[[int, float], list[float]]] = {
    "unipc_flow": _unipc_flow,
    "flow_match": _flow_match,
    "trailing": _trailing,
    "edm": _edm,
}
