"""VMAF against a plain two-file call of ffmpeg, and what is reported where it cannot be measured."""

import json
import subprocess

import numpy as np
import pytest

from svg.quality import evaluate
from svg.video import write_lossless


def measure(video, reference):
    [result] = evaluate(video, reference, metrics=["vmaf"])
    return result


@pytest.mark.parametrize("size", [(96, 160), (33, 47)])
def test_it_equals_ffmpeg_on_two_lossless_files(moving_picture, tmp_path, size):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the ffmpeg of imageio-ffmpeg")
    pair = moving_picture(4, *size, noise=20), moving_picture(4, *size)
    for name, each in zip(("video", "reference"), pair, strict=True):
        write_lossless(tmp_path / f"{name}.mkv", each, fps=16)
    to_yuv = "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p"
    graph = f"[0:v]{to_yuv}[a];[1:v]{to_yuv}[b];[a][b]libvmaf=log_fmt=json:log_path=log.json"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "video.mkv", "-i", "reference.mkv"]
    subprocess.run([*command, "-lavfi", graph, "-f", "null", "-"], cwd=tmp_path, check=True)
    frames = json.loads((tmp_path / "log.json").read_text())["frames"]
    result = measure(*pair)
    assert (result.status, result.n, result.unit) == ("ok", 4, "1")
    assert result.per_frame == pytest.approx([frame["metrics"]["vmaf"] for frame in frames], abs=1e-3)


def test_the_reference_side_is_the_reference(moving_picture):
    noisy, clean = moving_picture(4, 96, 160, noise=20), moving_picture(4, 96, 160)
    assert abs(measure(noisy, clean).value - measure(clean, noisy).value) > 1


def test_an_identical_video_scores_near_one_hundred(moving_picture):
    assert measure(moving_picture(4, 96, 160), moving_picture(4, 96, 160)).value > 95


def test_floats_are_rounded_to_eight_bits(moving_picture):
    pair = moving_picture(3, 64, 64, noise=20), moving_picture(3, 64, 64)
    assert measure(*pair).per_frame == measure(*(each.astype(np.float32) / 255 for each in pair)).per_frame


def test_frames_too_small_for_libvmaf_are_unavailable(moving_picture):
    result = measure(moving_picture(2, 31, 160), moving_picture(2, 31, 160))
    assert (result.status, result.value, result.n) == ("unavailable", None, 0)
    assert result.reason == "frames are 31x160; libvmaf needs at least 32x32 pixels"
    assert measure(moving_picture(2, 32, 32), moving_picture(2, 32, 32)).status == "ok"


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("echo \"[AVFilterGraph @ 0x1] No such filter: 'libvmaf'\" >&2; exit 8", "unavailable", "has no libvmaf"),
        ("echo 'first' >&2; echo 'out of luck' >&2; exit 3", "failed", "ffmpeg ended with 3: out of luck"),
        ("kill -SEGV $$", "failed", "ffmpeg ended with -11: nothing on stderr"),
        ('echo \'{"frames": [{"metrics": {"vmaf": 50}}]}\' > vmaf.json', "failed", "scored 1 of 3 frames"),
    ],
)
def test_an_ffmpeg_that_cannot_is_reported_not_raised(moving_picture, tmp_path, monkeypatch, script, status, reason):
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    result = measure(moving_picture(3, 64, 64), moving_picture(3, 64, 64))
    assert (result.status, result.value) == (status, None)
    assert reason in result.reason


def test_an_absent_ffmpeg_is_unavailable(moving_picture, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "absent"))
    result = measure(moving_picture(3, 64, 64), moving_picture(3, 64, 64))
    assert result.status == "unavailable"
    assert "ffmpeg does not run" in result.reason
