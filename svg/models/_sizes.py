"""What the families' size checks share: one line that names the setting, its value and the nearest one that fits."""

from __future__ import annotations


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
