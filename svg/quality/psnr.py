"""Peak signal-to-noise ratio, per frame and pooled over the video."""

from __future__ import annotations

import numpy as np

from svg.quality.result import Metric, Settings
from svg.video import to_float


def mean_squared_error(video: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each frame (frames,) in float64, for values in [0, 1]."""
    pairs = zip(to_float(video), to_float(reference), strict=True)
    return np.array([np.square(frame.astype(np.float64) - twin).mean() for frame, twin in pairs])


def decibels(error: np.ndarray) -> np.ndarray:
    """Return 10 log10(1 / error), infinite where the error is 0."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def psnr(video: np.ndarray, reference: np.ndarray, settings: Settings | None = None) -> np.ndarray:
    """Return the PSNR of each frame (frames,) in dB against a peak of 1; infinite where the frames are identical."""
    return decibels(mean_squared_error(video, reference))


def psnr_pooled(video: np.ndarray, reference: np.ndarray, settings: Settings | None = None) -> np.ndarray:
    """Return the PSNR () in dB of the mean squared error over all frames; a few identical frames leave it finite.

    At most the mean of the frames' PSNR, which weighs good frames more.
    """
    return decibels(mean_squared_error(video, reference).mean())


METRICS = {
    "psnr": Metric("psnr_db", "dB", higher_is_better=True, measure=psnr),
    "psnr_pooled": Metric("psnr_pooled_db", "dB", higher_is_better=True, measure=psnr_pooled),
}
