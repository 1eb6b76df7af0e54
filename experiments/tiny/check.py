"""An automatic check whether a video shows what its caption says: colour and shape, and the motion.

The thresholds were fixed on clips drawn with seeds of their own (``calibrate``), before any generated video was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.measure import label

from experiments.tiny.clips import COLOURS, Scene

# A pixel belongs to the shape if its brightest channel is above this; backgrounds stay below 0.48.
BRIGHT = 0.60
MIN_PIXELS = 45
# The shape must be seen in this share of the frames, and make up this share of the video's bright pixels.
MIN_VISIBLE = 0.8
MIN_SHARE = 0.6
# Area over the area of the circle around the centroid through the farthest pixels: circle 1, square .64, triangle .41.
CIRCLE_FILL, SQUARE_FILL = 0.82, 0.60
MIN_TRAVEL = 10.0
GROWTH = 1.7
MIN_TURN = 0.12


@dataclass(frozen=True)
class Verdict:
    """Whether colour and shape are as the caption says, and whether the motion is right as well."""

    is_shape_right: bool
    is_motion_right: bool


@dataclass(frozen=True)
class Track:
    """What was seen of one colour: per frame whether it was there, its centroid, area, fill and normalised outline."""

    visible: float
    centre: np.ndarray
    area: np.ndarray
    fill: float
    turn: float


def check(video: np.ndarray, scene: Scene) -> Verdict:
    """Compare a video with a scene.

    Args:
        video: float ``(frames, height, width, 3)`` in [0, 1].
        scene: What the caption says.
    """
    classes, bright = _classify(video)
    mask = classes == list(COLOURS).index(scene.colour)
    track = follow(mask)
    if track is None or track.visible < MIN_VISIBLE or mask.sum() < MIN_SHARE * bright.sum():
        return Verdict(False, False)
    is_shape_right = shape_of(track) == scene.shape
    return Verdict(is_shape_right, is_shape_right and motion_of(track) == scene.motion)


def shape_of(track: Track) -> str:
    """Name the shape by how much of its surrounding circle it fills."""
    if track.fill >= CIRCLE_FILL:
        return "circle"
    return "square" if track.fill >= SQUARE_FILL else "triangle"


def motion_of(track: Track) -> str | None:
    """Name the motion, or None where the thing neither moves, turns nor changes size enough to tell."""
    x, y = track.centre[:, 0], track.centre[:, 1]
    quarter = max(len(x) // 8, 1)
    dx, dy = x[-quarter:].mean() - x[:quarter].mean(), y[-quarter:].mean() - y[:quarter].mean()
    growth = np.median(track.area[-quarter:]) / np.median(track.area[:quarter])
    if _swings(y) >= 2 and np.ptp(y) > MIN_TRAVEL and np.ptp(y) > 1.5 * np.ptp(x):
        return "bounces"
    if max(abs(dx), abs(dy)) > MIN_TRAVEL:
        if abs(dx) > abs(dy):
            return "moves right" if dx > 0 else "moves left"
        return "moves down" if dy > 0 else "moves up"
    if growth > GROWTH or growth < 1 / GROWTH:
        return "grows" if growth > 1 else "shrinks"
    return "spins" if track.turn > MIN_TURN else None


def follow(mask: np.ndarray) -> Track | None:
    """Follow the largest blob of a colour's mask ``(frames, height, width)``; None where it is hardly ever there."""
    centres, areas, fills, outlines = [], [], [], []
    for frame in mask:
        labels = label(frame, connectivity=2)
        sizes = np.bincount(labels.ravel())[1:]
        if sizes.size == 0 or sizes.max() < MIN_PIXELS:
            continue
        rows, columns = np.nonzero(labels == sizes.argmax() + 1)
        centre = np.array([columns.mean(), rows.mean()])
        distance = np.hypot(columns - centre[0], rows - centre[1])
        reach = np.quantile(distance, 0.985) + 0.5
        centres.append(centre)
        areas.append(rows.size)
        fills.append(rows.size / (np.pi * reach**2))
        outlines.append(_outline(columns - centre[0], rows - centre[1], rows.size))
    if len(centres) < 8:
        return None
    stacked = np.stack(outlines)
    # The same outline recurs after a symmetric shape's partial turn, so the largest change over several lags counts.
    turn = max(np.abs(stacked[lag:] - stacked[:-lag]).mean() for lag in (2, 3, 4, 5))
    return Track(
        len(centres) / len(mask), np.stack(centres), np.array(areas, float), float(np.median(fills)), float(turn)
    )


def _classify(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's nearest colour of the palette (-1: background) and which pixels are bright."""
    brightest = video.max(-1)
    bright = brightest > BRIGHT
    palette = np.array(list(COLOURS.values()))
    palette = palette / palette.max(1, keepdims=True)
    hue = video[bright] / brightest[bright][:, None]
    nearest = ((hue[:, None, :] - palette[None]) ** 2).sum(-1).argmin(1)
    classes = np.full(bright.shape, -1)
    classes[bright] = nearest
    return classes, bright


def _outline(dx: np.ndarray, dy: np.ndarray, area: int, bins: int = 24) -> np.ndarray:
    """Return the reach in each direction, in units of the radius of a circle of the same area."""
    sector = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * bins).astype(int) % bins
    reach = np.zeros(bins)
    np.maximum.at(reach, sector, np.hypot(dx, dy))
    return reach / np.sqrt(area / np.pi)


def _swings(y: np.ndarray) -> int:
    """Count the turns of a height whose swings are larger than half of the least travel."""
    turns, direction, extreme = 0, 0, y[0]
    for value in y[1:]:
        if (direction >= 0 and value > extreme) or (direction <= 0 and value < extreme):
            direction = direction or (1 if value > extreme else -1)
            extreme = value
        elif abs(value - extreme) > MIN_TRAVEL / 2:
            turns, direction, extreme = turns + 1, -direction, value
    return turns
