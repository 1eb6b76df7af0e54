"""Videos as arrays and files: the one check, the one rounding rule, a lossless format and a preview for browsers."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from os import PathLike, fspath
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    Video = np.ndarray | torch.Tensor

# The tag of a lossless file that holds the sha256 of its shape and of its frames' bytes.
DIGEST_TAG = "FRAMES_SHA256"


def as_frames(video: Video, name: str = "video") -> np.ndarray:
    """Return a video as a checked array on the CPU: uint8 as it is, floating point as float32.

    Args:
        video: Array or tensor (frames, height, width, 3): uint8, or floating point in [0, 1].
        name: What error messages call it.

    Raises:
        ValueError: If the shape, the type or a value is none of these.
    """
    if hasattr(video, "detach"):
        video = video.detach().cpu()
        # NumPy has no bfloat16.
        video = (video.float() if video.is_floating_point() else video).numpy()
    frames = np.asarray(video)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{name} has shape {frames.shape}; it must be (frames, height, width, 3), none of them 0")
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"{name} has type {frames.dtype}; it must be uint8, or floating point in [0, 1]")
    lowest, highest = float(frames.min()), float(frames.max())
    if not np.isfinite([lowest, highest]).all():
        frame = int(np.argmin(np.isfinite(frames).all(axis=(1, 2, 3))))
        raise ValueError(f"{name} holds NaN or infinity, first in frame {frame}; every value must be in [0, 1]")
    if lowest < 0 or highest > 1:
        raise ValueError(f"{name} reaches from {lowest:.6g} to {highest:.6g}; floating point values must be in [0, 1]")
    return frames.astype(np.float32, copy=False)


def to_uint8(video: Video) -> np.ndarray:
    """Return a video as uint8 (frames, height, width, 3): 255 times the value to the nearest integer, halves to even.

    Every file of ours is written by this rule; uint8 input passes unchanged. Raises as `as_frames` does.
    """
    frames = as_frames(video)
    return frames if frames.dtype == np.uint8 else np.rint(frames * np.float32(255)).astype(np.uint8)


def to_float(video: Video, name: str = "video") -> np.ndarray:
    """Return a video as float32 (frames, height, width, 3) in [0, 1]; uint8 is divided by 255.

    Raises as `as_frames` does.
    """
    frames = as_frames(video, name)
    return frames.astype(np.float32) / np.float32(255) if frames.dtype == np.uint8 else frames


def difference(video: Video, reference: Video, gain: float = 1.0) -> np.ndarray:
    """Return ``gain`` times the absolute difference of two videos, cut off at 1: float32 of their shape, in [0, 1].

    Raises:
        ValueError: If the shapes differ, ``gain`` is not positive, or `as_frames` refuses one of them.
    """
    if not gain > 0:
        raise ValueError(f"gain is {gain}; it must be greater than 0")
    frames, twin = to_float(video), to_float(reference, "reference")
    if frames.shape != twin.shape:
        raise ValueError(f"video has shape {frames.shape} but reference has {twin.shape}; they must be equal")
    return np.minimum(np.abs(frames - twin) * np.float32(gain), np.float32(1))


def write_lossless(path: str | PathLike[str], video: Video, fps: float) -> None:
    """Write a video bit for bit: Matroska, FFV1, bgr0, with a checksum of the frames; equal videos make equal files.

    Args:
        path: Where to write; an existing file is replaced.
        video: (frames, height, width, 3), uint8 or floating point in [0, 1], which `to_uint8` rounds.
        fps: Frames per second, greater than 0.

    Raises:
        ValueError: If the video or ``fps`` is refused.
        OSError: If the file cannot be written, a full disk included; what is there then is not a whole file.
    """
    import av

    frames, rate = to_uint8(video), _rate(fps)
    with av.open(fspath(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        container.metadata[DIGEST_TAG] = _digest(frames)
        # Not the default number of slices, which follows the machine's threads: equal videos make equal files.
        slices = "4" if min(frames.shape[1:3]) >= 2 else "1"
        options = {"level": "3", "g": "1", "slices": slices, "flags": "+bitexact"}
        stream = container.add_stream("ffv1", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def read_lossless(path: str | PathLike[str]) -> np.ndarray:
    """Return the uint8 frames (frames, height, width, 3) that `write_lossless` wrote, proven by their checksum.

    Raises:
        ValueError: If the file is no video, was not written by `write_lossless`, or is cut short or damaged.
        OSError: If the file cannot be read.
    """
    import av

    name = fspath(path)
    try:
        with av.open(name) as container:
            expected = container.metadata.get(DIGEST_TAG)
            if expected is None:
                raise ValueError(f"{name} carries no checksum of its frames; it was not written by write_lossless")
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.InvalidDataError, IndexError) as error:
        raise ValueError(f"{name} is not a readable video, or is damaged") from error
    frames = np.stack(decoded) if decoded else np.empty((0, 0, 0, 3), np.uint8)
    if _digest(frames) != expected:
        raise ValueError(f"{name} is cut short or damaged: its {len(frames)} frames do not match their checksum")
    return frames


def write_preview(path: str | PathLike[str], video: Video, fps: float) -> None:
    """Write a small lossy mp4 that every browser plays: H.264, yuv420p, BT.709, a key frame every 8 frames for seeking.

    Browsers want even sizes: an odd height or width repeats its last row or column. Arguments and errors are those of
    `write_lossless`. Never measure quality on a preview.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    frames, rate = to_uint8(video), _rate(fps)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with av.open(fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "bf": "0", "g": "8"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            colors = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
            container.mux(stream.encode(picture.reformat(format="yuv420p", **colors)))
        container.mux(stream.encode())


def read_preview(path: str | PathLike[str]) -> np.ndarray:
    """Return the frames of a preview, uint8 (frames, height, width, 3): for people to see, never to measure on.

    Raises:
        ValueError: If the file is no video, or holds none.
        OSError: If it cannot be read.
    """
    import av

    try:
        with av.open(fspath(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.InvalidDataError, IndexError) as error:
        raise ValueError(f"{fspath(path)} is not a readable video, or is damaged") from error
    if not frames:
        raise ValueError(f"{fspath(path)} holds no frame")
    return np.stack(frames)


def beside(left: np.ndarray, right: np.ndarray, gap: int = 8) -> np.ndarray:
    """Return two videos of one size and length as one, with ``gap`` white columns between them: uint8.

    Raises:
        ValueError: If they differ in shape.
    """
    if left.shape != right.shape:
        raise ValueError(f"the left video has shape {left.shape}, the right one {right.shape}; they must be equal")
    white = np.full((*left.shape[:2], gap, 3), 255, np.uint8)
    return np.concatenate([to_uint8(left), white, to_uint8(right)], axis=2)


def _rate(fps: float) -> Fraction:
    if not 0 < fps <= 1000:
        raise ValueError(f"fps is {fps}; it must be greater than 0 and at most 1000")
    return Fraction(fps).limit_denominator(1001)


def _digest(frames: np.ndarray) -> str:
    digest = hashlib.sha256(str(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()
