"""All denoising steps of a video with random weights: the loop of a pipeline around a transformer alone, timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from experiments.one_step import Step
from svg.attaching import fastest_operations
from svg.attachment import Attachment
from svg.cost.clock import Clock, PhaseClock
from svg.cost.memory import peak_gib, reset_peak
from svg.receipt import Receipt


@dataclass(frozen=True)
class WholeVideo:
    """What the loop took: seconds of each step and of all, most memory held meanwhile, and what ran."""

    step_s: tuple[float, ...]
    total_s: float
    peak_gib: float
    receipt: Receipt


def run_video(
    step: Step, method: Any, backend: Any, dense_backend: Any, on_step: Callable[[], None] = lambda: None
) -> WholeVideo:
    """Denoise from random latents by Euler's method: every step predicts what the last one has left.

    Args:
        step: The transformer and its inputs; its latents are overwritten.
        method: With its dense steps.
        backend: As ``svg.attach`` takes it.
        dense_backend: Likewise.
        on_step: Called after every step is on its way.

    Raises:
        ValueError: If a backend refuses, or what comes out is not finite.
    """
    clock, denoiser = Clock(step.device), step.denoiser
    operations = fastest_operations(step.device)
    attached = Attachment(
        denoiser,
        step.adapter,
        method,
        backend,
        dense_backend,
        seed=step.seed,
        phases=PhaseClock(clock),
        operations=operations,
        compile=step.compile,
    )
    timesteps = denoiser.scheduler.timesteps
    latents: torch.Tensor | None = None
    reset_peak(step.device)
    try:
        with torch.no_grad(), attached as run:
            clock.wait()
            marks = [clock.mark()]
            for timestep in timesteps:
                denoiser.current_timestep = timestep
                predicted = _guided(step, timestep)
                places = [_latents_in(inputs["hidden_states"], predicted) for inputs in step.forwards]
                latents = places[0][:1].float() if latents is None else latents
                latents = latents - predicted.float() / len(timesteps)
                for place in places:
                    place.copy_(latents.expand_as(place))
                marks.append(clock.mark())
                on_step()
            clock.wait()
    finally:
        denoiser.current_timestep = None
    if latents is None or not bool(latents.isfinite().all()):
        raise ValueError(f"a video with backend={backend.name} and dense_backend={dense_backend.name} is not finite")
    seconds = tuple(clock.seconds(start, stop) for start, stop in pairwise(marks))
    return WholeVideo(seconds, clock.seconds(marks[0], marks[-1]), peak_gib(step.device), run.receipt)


def _guided(step: Step, timestep: torch.Tensor) -> torch.Tensor:
    """Return one prediction: all forwards of a step, and the guidance between the two where there are two."""
    outputs = []
    for inputs in step.forwards:
        at = torch.full_like(inputs["timestep"], 0) + timestep.to(inputs["timestep"].dtype)
        outputs.append(step.denoiser.transformer(**{**inputs, "timestep": at})[0])
    predicted = torch.cat(outputs)
    if len(predicted) == 1:
        return predicted
    negative, positive = predicted.chunk(2)
    return negative + step.denoiser.guidance_scale * (positive - negative)


def _latents_in(hidden: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return the part of a transformer's input that it predicts: an image may stand in further channels."""
    axes = [axis for axis in range(1, hidden.ndim) if hidden.shape[axis] != predicted.shape[axis]]
    return hidden.narrow(axes[0], 0, predicted.shape[axes[0]]) if axes else hidden
