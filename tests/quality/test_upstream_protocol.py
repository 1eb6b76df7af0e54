"""The protocol `upstream` against diffusers' own export and the metric's formulas written out."""

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from diffusers.utils import export_to_video

from svg.quality import PROTOCOLS, evaluate
from svg.quality.lpips import load
from svg.quality.protocol import through_mp4
from svg.quality.result import Settings


def exported(video, path, fps):
    """Return the frames of the mp4 that diffusers writes by its defaults from floats in [0, 1]."""
    export_to_video(list(video), str(path), fps=fps)
    return np.stack(imageio.mimread(path, memtest=False))


def floats(video):
    return video.astype(np.float32) / 255


@pytest.mark.parametrize("shape", [(1, 48, 64), (9, 96, 160), (4, 33, 47)])
def test_frames_pass_through_the_mp4_that_diffusers_writes(moving_picture, tmp_path, shape):
    video = floats(moving_picture(*shape, noise=9))
    recoded = through_mp4(video, fps=16)
    assert np.array_equal(recoded, exported(video, tmp_path / "a.mp4", 16))
    assert recoded.shape == (shape[0], -(-shape[1] // 16) * 16, -(-shape[2] // 16) * 16, 3)
    assert recoded.dtype == np.uint8


def test_floats_are_cut_off_and_stored_frames_are_kept():
    almost_one = np.full((2, 32, 32, 3), 0.999, np.float32)
    assert np.array_equal(through_mp4(almost_one, 8), through_mp4(np.full((2, 32, 32, 3), 254, np.uint8), 8))


def test_psnr_and_ssim_are_the_references_formulas(moving_picture, tmp_path):
    pair = floats(moving_picture(5, 48, 64, noise=20)), floats(moving_picture(5, 48, 64))
    x, y = (torch.tensor(exported(each, tmp_path / "a.mp4", 16)).permute(0, 3, 1, 2) / 255 for each in pair)

    def mean(frames):
        # The mean of each 11x11 neighbourhood, zeros around the frame.
        return torch.nn.functional.unfold(frames.flatten(0, 1)[:, None], 11, padding=5).mean(1).view_as(frames)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)) / (
        (mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2)
    )
    psnr, ssim = evaluate(*pair, ["psnr", "ssim"], protocol="upstream", fps=16)
    error = ((x - y) ** 2).mean(dim=(1, 2, 3))
    assert psnr.per_frame == pytest.approx((10 * torch.log10(1 / error)).tolist(), abs=1e-4)
    assert ssim.per_frame == pytest.approx(similarity.mean(dim=(1, 2, 3)).tolist(), abs=1e-5)
    assert (psnr.protocol, ssim.protocol, psnr.n) == ("upstream", "upstream", 5)


def test_lpips_sees_the_recoded_frames_on_zero_to_one(moving_picture, trunk_dir):
    pair = moving_picture(3, 48, 64, noise=20), moving_picture(3, 48, 64)
    network = load("vgg", Settings(PROTOCOLS["upstream"], lpips_trunk_dir=trunk_dir))
    x, y = (torch.tensor(through_mp4(each, 16)).permute(0, 3, 1, 2) / 255 for each in pair)
    [result] = evaluate(*pair, ["lpips_vgg"], protocol="upstream", fps=16, lpips_trunk_dir=trunk_dir)
    assert result.per_frame == pytest.approx(network.distance(x, y).tolist(), abs=1e-6)


def test_one_identical_frame_makes_the_mean_infinite_as_in_the_reference():
    # The first frame's code does not depend on the second, so it comes back the same in both videos.
    reference = np.full((2, 32, 32, 3), 100, np.uint8)
    video = reference.copy()
    video[1] = 160
    [standard] = evaluate(video, reference, ["psnr"])
    [upstream] = evaluate(video, reference, ["psnr"], protocol="upstream")
    assert (standard.status, standard.n) == ("ok", 1)
    assert (upstream.status, upstream.value) == ("infinite", None)
    assert upstream.reason == "1 of 2 frames are identical to the reference"
    assert upstream.per_frame[0] is None
    assert upstream.per_frame[1] == pytest.approx(20 * np.log10(255 / 60), abs=1)


def test_metrics_that_the_reference_lacks_are_unavailable(moving_picture):
    results = evaluate(moving_picture(), moving_picture(noise=9), protocol="upstream")
    lacking = {result.quantity for result in results if result.reason and "protocol upstream has only" in result.reason}
    assert lacking == {"lpips_alex", "vmaf"}


def test_without_an_ffmpeg_every_metric_is_unavailable(moving_picture, monkeypatch):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    for result in evaluate(moving_picture(), moving_picture(), ["psnr", "ssim"], protocol="upstream"):
        assert (result.status, result.value, result.n) == ("unavailable", None, 0)
        assert "No ffmpeg exe could be found" in result.reason
