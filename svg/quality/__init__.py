"""A video against its dense twin: one metric per file, measured in named protocols; torch is loaded when used."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svg.quality.protocol import PROTOCOLS, Protocol
from svg.quality.result import Metric, NotMeasured, QualityResult, Settings, not_measured, summarize
from svg.video import as_frames

if TYPE_CHECKING:
    from svg.video import Video

__all__ = ["DEFAULT_METRICS", "PROTOCOLS", "Protocol", "QualityResult", "evaluate", "metrics_by_name"]

DEFAULT_METRICS = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "vmaf")


@cache
def metrics_by_name() -> dict[str, Metric]:
    """Return every metric by the name that `evaluate` takes: what the modules of this package list in ``METRICS``."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {name: metric for module in modules for name, metric in getattr(module, "METRICS", {}).items()}


def evaluate(
    video: Video,
    reference: Video,
    metrics: Sequence[str] = DEFAULT_METRICS,
    protocol: str = "standard",
    fps: float = 16.0,
    device: str = "cpu",
    lpips_trunk_dir: str | PathLike[str] | None = None,
) -> list[QualityResult]:
    """Measure a video against its reference, frame by frame; one result per metric, in the order asked for.

    What this machine or this protocol cannot measure is a result with a reason, not an error.

    Args:
        video: (frames, height, width, 3), uint8 or floating point in [0, 1].
        reference: The same shape and kind; both uint8 or both floating point, else their rounding would be measured.
        metrics: Names from `metrics_by_name`.
        protocol: ``"standard"``: the frames as given, Gaussian SSIM, LPIPS on [-1, 1]. ``"upstream"``: the reference
            repository's script: both videos through a lossy mp4, PSNR, box SSIM and LPIPS VGG on [0, 1] only.
        fps: Frames per second, greater than 0.
        device: Where the networks run, in torch's words.
        lpips_trunk_dir: The one folder to search for LPIPS' backbones; None is the environment variable
            LPIPS_TRUNK_DIR, then torch.hub's folder.

    Raises:
        ValueError: If a name is unknown, ``fps`` is out of range, a video is not one (`svg.video.as_frames`), the two
            differ in shape or kind, or the frames are smaller than a metric is defined for.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    for name in metrics:
        if name not in metrics_by_name():
            raise ValueError(f"metrics names {name!r}; it must be one of {', '.join(sorted(metrics_by_name()))}")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps is {fps}; it must be greater than 0 and at most 1000")
    frames, twin = as_frames(video), as_frames(reference, "reference")
    if frames.shape != twin.shape:
        raise ValueError(f"video has shape {frames.shape} but reference has {twin.shape}; they must be equal")
    if frames.dtype != twin.dtype:
        raise ValueError(f"video is {frames.dtype} but reference is {twin.dtype}; round both with to_uint8, or neither")
    folder = None if lpips_trunk_dir is None else Path(lpips_trunk_dir)
    settings = Settings(PROTOCOLS[protocol], fps, device, folder)
    try:
        if settings.protocol.recode:
            frames, twin = (settings.protocol.recode(each, fps) for each in (frames, twin))
    except NotMeasured as error:
        return [not_measured(metrics_by_name()[name], error, settings.protocol) for name in metrics]
    return [_measure(name, metrics_by_name()[name], frames, twin, settings) for name in metrics]


def _measure(name: str, metric: Metric, frames: np.ndarray, twin: np.ndarray, settings: Settings) -> QualityResult:
    protocol = settings.protocol
    try:
        if protocol.metrics is not None and name not in protocol.metrics:
            raise NotMeasured(f"protocol {protocol.name} has only {', '.join(protocol.metrics)}")
        return summarize(metric, metric.measure(frames, twin, settings), len(frames), protocol)
    except NotMeasured as error:
        return not_measured(metric, error, protocol)
