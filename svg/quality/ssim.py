"""Structural similarity on RGB, with scikit-image's Gaussian window or the reference repository's box."""

from __future__ import annotations

import numpy as np

from svg.quality.result import Metric, Settings
from svg.video import to_float

WINDOW = 11


def gaussian_ssim(video: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the SSIM of each frame (frames,): Gaussian window of sigma 1.5, 11 pixels wide, borders left out.

    Raises:
        ValueError: If a frame is smaller than the window.

    Source: Wang et al. 2004, as scikit-image computes it with ``gaussian_weights`` and without sample covariance.
    """
    from skimage.metrics import structural_similarity

    height, width = video.shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(f"frames are {height}x{width}; ssim needs at least {WINDOW}x{WINDOW} pixels, its window")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    pairs = zip(to_float(video), to_float(reference), strict=True)
    return np.array(
        [
            structural_similarity(frame.astype(np.float64), twin.astype(np.float64), channel_axis=-1, **options)
            for frame, twin in pairs
        ]
    )


def box_ssim(video: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the SSIM of each frame (frames,) with an 11x11 mean for a window and zeros around the frame, in float32.

    The zeros count in the mean, so the borders look more alike than they are. Source: the reference repository's
    metric script; not the SSIM of Wang et al. 2004.
    """
    import torch
    from torch.nn.functional import avg_pool2d

    def mean(x: torch.Tensor) -> torch.Tensor:
        # Rows, then columns: the same mean as one square window, in a fifth of the additions.
        rows = avg_pool2d(x, (WINDOW, 1), stride=1, padding=(WINDOW // 2, 0))
        return avg_pool2d(rows, (1, WINDOW), stride=1, padding=(0, WINDOW // 2))

    c1, c2 = 0.01**2, 0.03**2
    values = []
    for pair in zip(to_float(video), to_float(reference), strict=True):
        x, y = (torch.tensor(frame).permute(2, 0, 1)[None] for frame in pair)
        mean_x, mean_y = mean(x), mean(y)
        variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
        covariance = mean(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        values.append((luminance * (2 * covariance + c2) / (variances + c2)).mean().item())
    return np.array(values)


def ssim(video: np.ndarray, reference: np.ndarray, settings: Settings) -> np.ndarray:
    """Return the SSIM of each frame (frames,) in the window of the protocol; 1 is identical."""
    measure = {"gaussian": gaussian_ssim, "box": box_ssim}[settings.protocol.ssim_window]
    return measure(video, reference)


METRICS = {"ssim": Metric("ssim", "1", higher_is_better=True, measure=ssim)}
