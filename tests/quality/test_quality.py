"""What every metric promises, whichever file it stands in, and what `evaluate` refuses."""

import subprocess
import sys
from dataclasses import replace
from statistics import fmean, pstdev

import numpy as np
import pytest

from svg.quality import evaluate, metrics_by_name

SIZE = (3, 48, 64)


@pytest.mark.parametrize("name", sorted(metrics_by_name()))
def test_every_metric_prefers_the_nearer_video(moving_picture, trunk_dir, name):
    metric = metrics_by_name()[name]
    values = []
    for noise in (4, 30):
        [result] = evaluate(moving_picture(*SIZE, noise), moving_picture(*SIZE), [name], lpips_trunk_dir=trunk_dir)
        assert (result.status, result.reason, result.n, result.protocol) == ("ok", None, SIZE[0], "standard")
        assert (result.quantity, result.unit) == (metric.quantity, metric.unit)
        values.append(result.value)
    nearer, farther = values
    assert (nearer > farther) == metric.higher_is_better == result.higher_is_better
    assert nearer != farther


@pytest.mark.parametrize("name", ["psnr", "ssim", "lpips_alex", "vmaf"])
def test_value_and_spread_are_those_of_the_frames(moving_picture, trunk_dir, name):
    [result] = evaluate(moving_picture(*SIZE, noise=9), moving_picture(*SIZE), [name], lpips_trunk_dir=trunk_dir)
    assert len(result.per_frame) == SIZE[0]
    assert result.value == pytest.approx(fmean(result.per_frame))
    assert result.spread == pytest.approx(pstdev(result.per_frame), abs=1e-9)


def test_results_stand_in_the_order_asked_for(moving_picture):
    results = evaluate(moving_picture(), moving_picture(noise=9), ["ssim", "psnr"])
    assert [result.quantity for result in results] == ["ssim", "psnr_db"]


def test_stored_frames_and_their_floats_measure_the_same(moving_picture):
    pair = moving_picture(*SIZE, noise=9), moving_picture(*SIZE)
    names = ["psnr", "psnr_pooled", "ssim"]
    floats = evaluate(*(each.astype(np.float32) / 255 for each in pair), names)
    for stored, floating in zip(evaluate(*pair, names), floats, strict=True):
        assert stored.value == pytest.approx(floating.value, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["psnr", "pnsr"]}, "metrics names 'pnsr'; it must be one of lpips_alex, lpips_vgg, psnr"),
        ({"protocol": "upstraem"}, "protocol is 'upstraem'; it must be one of standard, upstream"),
        ({"fps": 0}, "fps is 0; it must be greater than 0"),
        ({"reference": np.zeros((2, 4, 5, 3))}, r"video has shape \(3, 33, 47, 3\) but reference has \(2, 4, 5, 3\)"),
        ({"reference": np.zeros((3, 33, 47, 3))}, "video is uint8 but reference is float32; round both"),
        ({"reference": np.full((3, 33, 47, 3), 2.0)}, r"reference reaches from 2 to 2; .* in \[0, 1\]"),
        ({"video": np.full((3, 33, 47, 3), np.nan)}, "video holds NaN or infinity, first in frame 0"),
        ({"video": np.zeros((3, 3, 33, 47))}, r"video has shape \(3, 3, 33, 47\); it must be \(frames, height"),
    ],
)
def test_wrong_input_is_one_line_with_value_and_rule(moving_picture, changes, message):
    arguments = {"video": moving_picture(), "reference": moving_picture(), "metrics": ["psnr"], **changes}
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(**arguments)
    assert "\n" not in str(caught.value)


def test_a_metric_that_comes_out_as_nan_has_failed(moving_picture, monkeypatch):
    values = np.array([1.0, np.nan, np.inf])
    broken = replace(metrics_by_name()["psnr"], measure=lambda video, reference, settings: values)
    monkeypatch.setitem(metrics_by_name(), "psnr", broken)
    [result] = evaluate(moving_picture(), moving_picture(), ["psnr"])
    assert (result.status, result.value, result.reason) == ("failed", None, "psnr_db came out as NaN in frame 1")


def test_importing_the_room_loads_no_torch():
    code = "import sys, svg.quality; svg.quality.metrics_by_name(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
