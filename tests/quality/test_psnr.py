"""PSNR against scikit-image and by hand, and what identical frames count as."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from svg.quality import evaluate
from svg.quality.psnr import psnr


def test_psnr_equals_scikit_image(moving_picture):
    video, reference = (x.astype(np.float32) / 255 for x in (moving_picture(noise=9), moving_picture()))
    judge = [peak_signal_noise_ratio(y, x, data_range=1.0) for x, y in zip(video, reference, strict=True)]
    assert psnr(video, reference) == pytest.approx(judge, abs=1e-4)


@pytest.mark.parametrize(("offset", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_a_constant_offset_has_the_psnr_of_its_square(offset, expected):
    assert psnr(np.full((2, 3, 5, 3), offset), np.zeros((2, 3, 5, 3))) == pytest.approx([expected] * 2, abs=1e-5)


@pytest.mark.parametrize("metric", ["psnr", "psnr_pooled"])
def test_identical_videos_are_infinite_and_have_no_value(moving_picture, metric):
    [result] = evaluate(moving_picture(), moving_picture(), metrics=[metric])
    assert (result.status, result.value, result.spread, result.n) == ("infinite", None, None, 3)
    assert result.reason is not None
    assert "identical" in result.reason


def test_identical_frames_stay_out_of_the_mean_and_are_counted(moving_picture):
    reference = moving_picture(4)
    video = moving_picture(4, noise=9)
    video[1] = reference[1]
    [result] = evaluate(video, reference, metrics=["psnr"])
    others = psnr(video[[0, 2, 3]], reference[[0, 2, 3]])
    assert result.value == pytest.approx(others.mean())
    assert (result.status, result.n) == ("ok", 3)
    assert result.spread == pytest.approx(others.std())
    assert result.reason == "mean of the others: 1 of 4 frames are identical to the reference"
    assert result.per_frame[1] is None
    assert [x for x in result.per_frame if x is not None] == pytest.approx(others)


def test_pooled_psnr_is_that_of_the_mean_error():
    video = np.zeros((2, 2, 2, 3), np.float32)
    video[0], video[1] = 0.1, 0.3
    [result] = evaluate(video, np.zeros_like(video), metrics=["psnr_pooled"])
    assert result.value == pytest.approx(-10 * np.log10((0.01 + 0.09) / 2), abs=1e-5)
    assert (result.quantity, result.per_frame, result.n, result.spread) == ("psnr_pooled_db", None, 2, None)


def test_errors_too_small_for_float32_squares_are_still_finite():
    video = np.full((1, 2, 2, 3), 1e-30, np.float32)
    assert psnr(video, np.zeros_like(video)) == pytest.approx([600], abs=1e-3)
