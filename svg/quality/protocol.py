"""The named protocols: which metrics are measured, on which frames, in which variant."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from svg.quality.result import NotMeasured


@dataclass(frozen=True)
class Protocol:
    """One way to compare a video with its reference.

    Args:
        name: What the results call it.
        metrics: Names of the metrics it has; None is all there are.
        recode: From (frames, fps) to the frames that are compared; None compares them as they are.
        ssim_window: ``"gaussian"``: sigma 1.5, borders left out; ``"box"``: 11x11 mean, zeros around the frame.
        lpips_range: Range of the values that the LPIPS networks see; they were calibrated on ``"[-1, 1]"``.
        leaves_out_infinite_frames: Whether a mean is over the finite frames, or infinite where one frame is.
    """

    name: str
    metrics: tuple[str, ...] | None = None
    recode: Callable[[np.ndarray, float], np.ndarray] | None = None
    ssim_window: Literal["gaussian", "box"] = "gaussian"
    lpips_range: Literal["[-1, 1]", "[0, 1]"] = "[-1, 1]"
    leaves_out_infinite_frames: bool = True


def through_mp4(frames: np.ndarray, fps: float) -> np.ndarray:
    """Return uint8 frames as they come back from the mp4 that diffusers' ``export_to_video`` writes: H.264, quality 5.

    Floating point is cut to integers, not rounded, and ffmpeg scales each side up to a multiple of 16, both as there.

    Args:
        frames: (frames, height, width, 3), uint8 or float32 in [0, 1].
        fps: Frames per second.

    Raises:
        NotMeasured: If imageio or its ffmpeg is not installed, or the file does not hold every frame.
    """
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise NotMeasured(f"no ffmpeg to write the mp4 with: {error}; pip install imageio imageio-ffmpeg") from error
    pixels = frames if frames.dtype == np.uint8 else (frames * 255).astype(np.uint8)
    with tempfile.TemporaryDirectory(prefix="svg-quality-") as folder:
        path = str(Path(folder) / "video.mp4")
        with imageio.get_writer(path, fps=fps, quality=5.0, bitrate=None, macro_block_size=16) as writer:
            for frame in pixels:
                writer.append_data(frame)
        with imageio.get_reader(path, "ffmpeg") as reader:
            decoded = [np.asarray(frame) for frame in reader]
    if len(decoded) != len(frames):
        raise NotMeasured(f"the mp4 holds {len(decoded)} of {len(frames)} frames at {fps} frames per second", "failed")
    return np.stack(decoded)


# `upstream` is the reference repository's metric script to the letter, so that published numbers can be compared.
PROTOCOLS = {
    "standard": Protocol("standard"),
    "upstream": Protocol(
        "upstream",
        metrics=("psnr", "ssim", "lpips_vgg"),
        recode=through_mp4,
        ssim_window="box",
        lpips_range="[0, 1]",
        leaves_out_infinite_frames=False,
    ),
}
