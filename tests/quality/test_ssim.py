"""Both SSIM windows against independent implementations in float64."""

import numpy as np
import pytest
from scipy import ndimage

from svg.quality import evaluate
from svg.quality.ssim import box_ssim, gaussian_ssim


def judge(x, y, mean):
    """Return the SSIM map of one channel from any local mean."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return numerator / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))


def gaussian_mean(x):
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    return ndimage.convolve(x, kernel / kernel.sum())


def box_mean(x):
    return ndimage.convolve(x, np.full((11, 11), 1 / 121), mode="constant")


def channels(moving_picture):
    video, reference = moving_picture(noise=20) / 255, moving_picture() / 255
    return [[(x[..., c], y[..., c]) for c in range(3)] for x, y in zip(video, reference, strict=True)]


def test_the_gaussian_window_leaves_the_border_out(moving_picture):
    inner = slice(5, -5)
    frames = channels(moving_picture)
    expected = [np.mean([judge(x, y, gaussian_mean)[inner, inner] for x, y in frame]) for frame in frames]
    assert gaussian_ssim(moving_picture(noise=20), moving_picture()) == pytest.approx(expected, abs=1e-6)


def test_the_box_window_counts_zeros_around_the_frame(moving_picture):
    expected = [np.mean([judge(x, y, box_mean) for x, y in frame]) for frame in channels(moving_picture)]
    assert box_ssim(moving_picture(noise=20), moving_picture()) == pytest.approx(expected, abs=1e-5)


def test_the_two_windows_differ(moving_picture):
    pair = moving_picture(noise=20), moving_picture()
    assert np.abs(gaussian_ssim(*pair) - box_ssim(*pair)).min() > 1e-3


@pytest.mark.parametrize("measure", [gaussian_ssim, box_ssim])
def test_identical_frames_have_ssim_one(moving_picture, measure):
    assert measure(moving_picture(), moving_picture()) == pytest.approx(1, abs=1e-6)


def test_frames_smaller_than_the_window_are_an_error_that_says_so(moving_picture):
    video = moving_picture(2, 10, 47)
    with pytest.raises(ValueError, match="frames are 10x47; ssim needs at least 11x11 pixels"):
        evaluate(video, video, metrics=["ssim"])
    assert evaluate(moving_picture(1, 11, 11), moving_picture(1, 11, 11), metrics=["ssim"])[0].value == 1
