"""What a video may be, how it is rounded, and that its files hold what was written."""

import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from svg.video import as_frames, difference, read_lossless, to_float, to_uint8, write_lossless, write_preview

SHAPES = [(5, 33, 47, 3), (1, 1, 1, 3), (2, 96, 160, 3)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_lossless_files_return_every_bit(tmp_path, shape):
    video = noise(shape)
    write_lossless(tmp_path / "a.mkv", video, fps=16)
    restored = read_lossless(tmp_path / "a.mkv")
    assert restored.dtype == np.uint8
    assert np.array_equal(restored, video)


def test_lossless_files_are_ffv1_in_bgr0_at_the_given_rate(tmp_path):
    write_lossless(tmp_path / "a.mkv", noise((3, 5, 7, 3)), fps=23.976)
    with av.open(str(tmp_path / "a.mkv")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("ffv1", "bgr0")
        assert float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)


def test_equal_videos_make_equal_files(tmp_path):
    for name in ("a.mkv", "b.mkv"):
        write_lossless(tmp_path / name, noise((4, 9, 11, 3)), fps=8)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_float_videos_are_stored_by_the_one_rounding_rule(tmp_path):
    video = torch.rand(3, 7, 9, 3, generator=torch.Generator().manual_seed(0))
    write_lossless(tmp_path / "a.mkv", video, fps=16)
    assert np.array_equal(read_lossless(tmp_path / "a.mkv"), to_uint8(video))


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_lossless_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.mkv"
    write_lossless(path, noise((5, 33, 47, 3)), fps=16)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if damage == "flip" else data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"a\.mkv is (cut short or damaged|not a readable video)"):
        read_lossless(path)


def test_reading_refuses_text_previews_and_absent_files(tmp_path):
    (tmp_path / "text.mkv").write_text("hello")
    write_preview(tmp_path / "a.mp4", noise((2, 4, 4, 3)), fps=8)
    with pytest.raises(ValueError, match="not a readable video"):
        read_lossless(tmp_path / "text.mkv")
    with pytest.raises(ValueError, match="not written by write_lossless"):
        read_lossless(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError):
        read_lossless(tmp_path / "absent.mkv")


@pytest.mark.parametrize("write", ["write_lossless", "write_preview"])
def test_a_disk_that_takes_no_more_is_an_os_error(tmp_path, write):
    code = f"""
import resource, signal, sys
import numpy as np
from svg.video import {write}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
video = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
try:
    {write}(sys.argv[1], video, 8)
except OSError:
    print("OSError")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "OSError", done.stderr


@pytest.mark.parametrize("shape", [(9, 33, 47, 3), (3, 96, 160, 3), (1, 1, 1, 3)])
def test_previews_have_even_sizes_and_every_frame(tmp_path, shape):
    write_preview(tmp_path / "a.mp4", noise(shape), fps=16)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert np.stack(decoded).shape == (shape[0], shape[1] + shape[1] % 2, shape[2] + shape[2] % 2, 3)


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (90, 160, 30)])
def test_previews_keep_colors_up_to_the_repeated_border(tmp_path, color):
    write_preview(tmp_path / "a.mp4", np.full((2, 15, 17, 3), color, np.uint8), fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(decoded.astype(int) - color).max() <= 3


def test_every_uint8_value_survives_float_and_back():
    video = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_float(video)), video)


def test_rounding_goes_to_the_nearest_integer():
    values = np.array([0.49, 0.51, 1.49, 254.51], np.float32) / 255
    assert to_uint8(values.repeat(3).reshape(1, 2, 2, 3))[..., 0].ravel().tolist() == [0, 1, 1, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_floating_type_become_float32_arrays(dtype):
    video = torch.full((1, 2, 2, 3), 0.5, dtype=dtype, requires_grad=True)
    assert as_frames(video).dtype == np.float32
    assert (as_frames(video) == 0.5).all()


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((2, 3, 4)), r"clip has shape \(2, 3, 4\); it must be \(frames, height, width, 3\)"),
        (np.zeros((2, 3, 4, 4)), r"clip has shape \(2, 3, 4, 4\)"),
        (np.zeros((0, 3, 4, 3)), "none of them 0"),
        (np.zeros((1, 1, 1, 3), np.int64), "clip has type int64; it must be uint8, or floating point"),
        (np.full((1, 1, 1, 3), 1.5), r"clip reaches from 1.5 to 1.5; .* in \[0, 1\]"),
        (np.full((1, 1, 1, 3), -0.25), r"clip reaches from -0.25 to -0.25"),
        (np.stack([np.zeros((1, 1, 3)), np.full((1, 1, 3), np.nan)]), "clip holds NaN or infinity, first in frame 1"),
        (np.full((1, 1, 1, 3), np.inf), "NaN or infinity, first in frame 0"),
    ],
)
def test_a_wrong_video_is_named_with_its_value_and_the_rule(video, message):
    with pytest.raises(ValueError, match=message):
        as_frames(video, "clip")


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e6])
def test_a_wrong_frame_rate_is_refused_before_a_file_exists(tmp_path, fps):
    with pytest.raises(ValueError, match="fps is"):
        write_lossless(tmp_path / "a.mkv", noise((1, 2, 2, 3)), fps)
    assert not list(tmp_path.iterdir())


def test_difference_is_absolute_amplified_and_cut_off():
    video, reference = np.full((1, 1, 1, 3), 0.5, np.float32), np.full((1, 1, 1, 3), 0.6, np.float32)
    assert difference(video, reference, gain=2) == pytest.approx(0.2)
    assert difference(video, reference, gain=100) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="they must be equal"):
        difference(video, np.zeros((2, 1, 1, 3)))
    with pytest.raises(ValueError, match="gain is 0"):
        difference(video, reference, gain=0)


def test_importing_the_module_loads_no_torch_and_no_codec():
    code = "import sys, svg.video; print(sorted({'torch', 'av'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
