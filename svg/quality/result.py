"""What a metric declares, what it is told, and what one measurement of a video against its reference says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from svg.quality.protocol import Protocol

Status = Literal["ok", "infinite", "unavailable", "failed"]


@dataclass(frozen=True)
class Settings:
    """What a metric needs besides the two videos.

    Args:
        protocol: Which variant of each metric is measured.
        fps: Frames per second of both videos.
        device: Where networks run, in torch's words.
        lpips_trunk_dir: The one folder to search for the backbones of LPIPS; None is the environment variable
            LPIPS_TRUNK_DIR, then torch.hub's folder.
    """

    protocol: Protocol
    fps: float = 16.0
    device: str = "cpu"
    lpips_trunk_dir: Path | None = None


@dataclass(frozen=True)
class Metric:
    """One metric: a module of this package offers it by an entry in its ``METRICS``.

    Args:
        quantity: Name of the measured quantity, its unit included where it has one.
        unit: ``"dB"``, or ``"1"`` for a pure number.
        higher_is_better: Whether a greater value means closer to the reference.
        measure: From (video, reference, settings) to a float64 array (frames,), or () for one value of the whole
            video; infinity is allowed. Both videos are checked arrays of one shape, both uint8 or both float32.
            Raises `NotMeasured` where this machine cannot measure.
    """

    quantity: str
    unit: str
    higher_is_better: bool
    measure: Callable[[np.ndarray, np.ndarray, Settings], np.ndarray]


class NotMeasured(Exception):
    """A metric that could not be measured: its message becomes the result's reason, ``status`` the result's status."""

    def __init__(self, reason: str, status: Literal["unavailable", "failed"] = "unavailable") -> None:
        super().__init__(reason)
        self.status: Literal["unavailable", "failed"] = status


@dataclass(frozen=True)
class QualityResult:
    """One quantity of one video against its reference.

    Args:
        quantity: What was measured: ``psnr_db``, ``psnr_pooled_db``, ``ssim``, ``lpips_alex``, ``lpips_vgg``, ``vmaf``.
        protocol: Under which protocol, by name.
        unit: ``"dB"``, or ``"1"`` for a pure number (VMAF from 0 to 100).
        value: Mean over the ``n`` frames, or the one value of the video; None unless the status is ``"ok"``.
        per_frame: A value per frame, None for an infinite one; None for a quantity of the whole video.
        n: Frames that the value, or an infinite status, speaks for; 0 where nothing was measured.
        spread: Population standard deviation over those frames; None without a value per frame.
        higher_is_better: Whether a greater value means closer to the reference.
        status: ``"ok"``; ``"infinite"``: the videos are identical; ``"unavailable"``: this machine or protocol cannot
            measure it; ``"failed"``: a tool broke.
        reason: Why there is no value, or which frames the value leaves out.
    """

    quantity: str
    protocol: str
    unit: str
    value: float | None
    per_frame: tuple[float | None, ...] | None
    n: int
    spread: float | None
    higher_is_better: bool
    status: Status
    reason: str | None = None


def summarize(metric: Metric, values: np.ndarray, num_frames: int, protocol: Protocol) -> QualityResult:
    """Return the result for a metric's values, (frames,) or ().

    An infinite frame never enters a mean. Where the protocol leaves infinite frames out, the value is the mean of the
    finite ones, ``n`` their number and the reason says how many are missing; else one such frame makes the result
    infinite, as it makes the reference's mean.

    Raises:
        NotMeasured: If a value is NaN; the result is then ``"failed"``.
    """
    if np.isnan(values).any():
        where = f" in frame {int(np.argmax(np.isnan(values)))}" if values.ndim else ""
        raise NotMeasured(f"{metric.quantity} came out as NaN{where}", "failed")
    finite = values[np.isfinite(values)]
    per_frame = tuple(float(x) if np.isfinite(x) else None for x in values) if values.ndim else None
    fixed = (metric.quantity, protocol.name, metric.unit)
    num_infinite = values.size - finite.size
    if not finite.size or (num_infinite and not protocol.leaves_out_infinite_frames):
        which = f"{num_infinite} of {num_frames} frames are" if values.ndim else "every frame is"
        reason = f"{which} identical to the reference"
        return QualityResult(*fixed, None, per_frame, num_frames, None, metric.higher_is_better, "infinite", reason)
    reason = f"mean of the others: {num_infinite} of {num_frames} frames are identical to the reference"
    return QualityResult(
        *fixed,
        value=float(finite.mean()),
        per_frame=per_frame,
        n=finite.size if values.ndim else num_frames,
        spread=float(finite.std()) if values.ndim else None,
        higher_is_better=metric.higher_is_better,
        status="ok",
        reason=reason if num_infinite else None,
    )


def not_measured(metric: Metric, error: NotMeasured, protocol: Protocol) -> QualityResult:
    """Return the result of a metric that could not be measured, with the error's status and reason."""
    fixed = (metric.quantity, protocol.name, metric.unit, None, None, 0, None, metric.higher_is_better)
    return QualityResult(*fixed, error.status, str(error))
