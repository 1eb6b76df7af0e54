"""What the families' size checks share: one line that names the setting, its value and the nearest one that fits."""

from __future__ import annotations

import math


def check_frames(num_frames: int, period: int) -> None:
    """Raise ``ValueError`` unless the frames of a video are a multiple of ``period`` and one."""
    if (num_frames - 1) % period:
        nearest = max(0, round((num_frames - 1) / period)) * period + 1
        raise ValueError(f"model.num_frames is {num_frames}; this model takes {period}k + 1 frames, such as {nearest}")


def check_pixels(name: str, pixels: int, multiple: int) -> None:
    """Raise ``ValueError`` unless ``model.<name>`` is a multiple of what one token covers."""
    if pixels % multiple:
        nearest = max(1, round(pixels / multiple)) * multiple
        raise ValueError(f"model.{name} is {pixels}; this model takes multiples of {multiple}, such as {nearest}")


def check_positions(name: str, count: int, most: int) -> None:
    """Raise ``ValueError`` unless the model has a position for all that ``model.<name>`` makes."""
    if count > most:
        raise ValueError(f"model.{name} makes {count} positions; this model knows at most {most}")


def sides_for_image(area: int, height: int, width: int, multiples: tuple[int, int]) -> tuple[int, int]:
    """Return height and width in the shape of an image, of at most about ``area`` pixels.

    Args:
        area: Pixels, before both sides are rounded down to multiples.
        height, width: Of the image.
        multiples: Of height and width.
    """
    ratio = height / width
    sides = zip((math.sqrt(area * ratio), math.sqrt(area / ratio)), multiples, strict=True)
    # Halves to even and then down, as the reference code does it.
    tall, wide = (max(1, round(side) // multiple) * multiple for side, multiple in sides)
    return tall, wide
