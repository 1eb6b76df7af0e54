"""Reads the preview videos of a run: pictures for people, on which no quality is measured."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image


def frames(path: Path) -> tuple[list[Image.Image], float]:
    """Return the frames of a preview and how many are shown in a second.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no video.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        return [frame.to_image() for frame in container.decode(stream)], rate
