"""VMAF, through the ffmpeg that imageio-ffmpeg brings and the model built into its libvmaf (vmaf_v0.6.1)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from svg.quality.result import Metric, NotMeasured, Settings
from svg.video import to_uint8

# Below this, libvmaf's four scales run out of pixels: it reads outside its buffers and may crash.
SMALLEST_SIDE = 32


def vmaf(video: np.ndarray, reference: np.ndarray, settings: Settings) -> np.ndarray:
    """Return the VMAF of each frame (frames,), 0 to 100.

    The frames go to ffmpeg uncompressed, each beside its twin in one picture, as 8-bit RGB by `svg.video.to_uint8`;
    ffmpeg turns both to BT.709 limited-range yuv444p, of which the model sees the luma only. An identical video stays
    below 100: its first frame has no motion. The model was trained on 1080p pictures seen on a television; on small
    frames it orders videos but is not calibrated.

    Raises:
        NotMeasured: If a frame is smaller than 32x32, ffmpeg or its libvmaf is not there, or ffmpeg breaks.
    """
    num_frames, height, width = video.shape[:3]
    if min(height, width) < SMALLEST_SIDE:
        raise NotMeasured(f"frames are {height}x{width}; libvmaf needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels")
    pairs = np.concatenate([to_uint8(video), to_uint8(reference)], axis=2)
    to_yuv = "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p"
    graph = (
        f"[0:v]split[left][right];[left]crop={width}:{height}:0:0,{to_yuv}[video];"
        f"[right]crop={width}:{height}:{width}:0,{to_yuv}[reference];"
        "[video][reference]libvmaf=log_fmt=json:log_path=vmaf.json"
    )
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{2 * width}x{height}"]
    command = [_ffmpeg(), "-hide_banner", "-v", "error", *source, "-framerate", str(settings.fps), "-i", "pipe:0"]
    with tempfile.TemporaryDirectory(prefix="svg-quality-") as folder:
        log = Path(folder) / "vmaf.json"
        try:
            done = subprocess.run(
                [*command, "-lavfi", graph, "-f", "null", "-"],
                input=pairs.tobytes(),
                cwd=folder,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise NotMeasured(f"ffmpeg does not run: {error}") from error
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        if any("No such filter: 'libvmaf'" in line for line in lines):
            raise NotMeasured("this ffmpeg has no libvmaf; pip install imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE")
        if done.returncode != 0 or not log.exists():
            last = lines[-1] if lines else "nothing on stderr"
            raise NotMeasured(f"ffmpeg ended with {done.returncode}: {last}", "failed")
        frames = json.loads(log.read_text())["frames"]
    if len(frames) != num_frames:
        raise NotMeasured(f"libvmaf scored {len(frames)} of {num_frames} frames", "failed")
    return np.array([frame["metrics"]["vmaf"] for frame in frames])


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise NotMeasured(f"no ffmpeg: {error}; pip install imageio-ffmpeg") from error


METRICS = {"vmaf": Metric("vmaf", "1", higher_is_better=True, measure=vmaf)}
