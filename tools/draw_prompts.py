"""Draws the images of the prompt set ``image_to_video``: ``python tools/draw_prompts.py [FOLDER]``."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "prompts" / "image_to_video"
# Everything is drawn so many times larger and then made smaller, for smooth edges.
SCALE = 3
Color = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """A picture drawn by shapes; coordinates are pixels from the upper left corner."""

    def __init__(self, width: int, height: int, top: Color, bottom: Color) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * SCALE, height * SCALE))
        self._draw = ImageDraw.Draw(self._image)
        self.gradient(0, height, top, bottom)

    def gradient(self, start: float, stop: float, top: Color, bottom: Color) -> None:
        """Fill the rows from ``start`` to ``stop``."""
        rows = range(round(start * SCALE), round(stop * SCALE))
        for row in rows:
            share = (row - rows.start) / max(1, len(rows) - 1)
            color = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
            self._draw.line([(0, row), (self.width * SCALE, row)], fill=color)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        self._draw.line([(x * SCALE, y * SCALE) for x, y in points], color, round(width * SCALE), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, radius: float = 0) -> None:
        edges = [side * SCALE for side in (left, top, right, bottom)]
        self._draw.rounded_rectangle(edges, radius * SCALE, fill=color)

    def oval(self, x: float, y: float, wide: float, tall: float, color: Color) -> None:
        """Fill an ellipse around (x, y), ``wide`` and ``tall`` to each side."""
        self._draw.ellipse([side * SCALE for side in (x - wide, y - tall, x + wide, y + tall)], fill=color)

    def hills(self, level: float, height: float, waves: float, shift: float, color: Color) -> None:
        """Fill everything below a wavy line."""
        line = [
            (x, level - height * math.sin(waves * math.tau * x / self.width + shift)) for x in range(self.width + 1)
        ]
        self.polygon([*line, (self.width, self.height), (0, self.height)], color)

    def finished(self) -> Image.Image:
        return self._image.resize((self.width, self.height), Image.Resampling.BOX)


def balloon() -> Image.Image:
    canvas = Canvas(480, 832, (96, 160, 220), (246, 226, 190))
    for x, y, size in ((90, 150, 26), (400, 250, 20), (70, 420, 16)):
        for step in (-1.2, 0, 1.2):
            canvas.oval(x + step * size, y, size, size * (0.7 if step else 1), (250, 250, 250))
    canvas.hills(650, 40, 1.0, 0.5, (118, 158, 104))
    canvas.hills(710, 30, 1.6, 2.2, (88, 138, 76))
    canvas.hills(770, 22, 2.3, 4.0, (60, 112, 58))
    x, y, wide, tall = 245, 300, 112, 130
    for index, color in enumerate(((214, 60, 52), (246, 200, 70), (214, 60, 52), (246, 200, 70), (214, 60, 52))):
        # Seen from the side, an outer stripe hides most of an inner one.
        canvas.oval(x, y, wide * math.cos(index * math.pi / 10), tall, color)
    canvas.polygon([(x - 62, y + 100), (x + 62, y + 100), (x + 20, y + 168), (x - 20, y + 168)], (190, 52, 46))
    for side in (-18, 18):
        canvas.line([(x + side, y + 166), (x + side, y + 206)], (90, 70, 50), 2)
    canvas.box(x - 22, y + 204, x + 22, y + 236, (140, 98, 58), 5)
    return canvas.finished()


def boat() -> Image.Image:
    canvas = Canvas(832, 480, (250, 176, 112), (252, 224, 168))
    canvas.oval(610, 196, 46, 46, (255, 244, 208))
    canvas.hills(214, 12, 2.0, 1.0, (150, 112, 116))
    canvas.gradient(226, 480, (222, 152, 120), (64, 84, 120))
    for index in range(14):
        y, wide = 244 + 16 * index, 60 - 2.6 * index
        canvas.line([(610 - wide, y), (610 + wide, y)], (252, 214, 160), 3)
    for index in range(5):
        reach = 60 + 26 * index
        canvas.line([(300 - reach, 392 + 9 * index), (330 - reach * 0.4, 388 + 7 * index)], (206, 196, 196), 2.5)
    canvas.polygon([(260, 330), (540, 330), (478, 398), (322, 398)], (206, 48, 44))
    canvas.polygon([(400, 210), (400, 330), (306, 330)], (232, 84, 74))
    canvas.polygon([(400, 210), (494, 330), (400, 330)], (184, 36, 36))
    canvas.polygon([(260, 330), (540, 330), (400, 352)], (150, 28, 30))
    return canvas.finished()


def fishbowl() -> Image.Image:
    canvas = Canvas(640, 640, (234, 216, 190), (208, 180, 148))
    canvas.gradient(520, 640, (132, 92, 62), (104, 70, 46))
    canvas.oval(320, 350, 222, 214, (206, 226, 232))
    canvas.oval(320, 360, 206, 196, (120, 190, 214))
    # The wall again, where the bowl is open.
    canvas.gradient(130, 216, (229, 209, 181), (225, 204, 176))
    canvas.oval(320, 216, 166, 22, (206, 226, 232))
    canvas.oval(320, 218, 154, 16, (150, 208, 226))
    canvas.oval(320, 516, 112, 32, (196, 178, 142))
    canvas.polygon([(400, 366), (476, 316), (462, 370), (476, 420)], (236, 120, 30))
    canvas.polygon([(290, 322), (352, 278), (376, 328)], (240, 136, 44))
    canvas.oval(320, 366, 96, 54, (248, 146, 44))
    canvas.oval(318, 380, 78, 34, (252, 178, 92))
    canvas.oval(256, 354, 14, 14, (255, 255, 255))
    canvas.oval(252, 354, 7, 7, (24, 24, 30))
    for x, y, size in ((196, 330, 9), (184, 296, 7), (198, 268, 5)):
        canvas.oval(x, y, size, size, (226, 244, 250))
        canvas.oval(x, y, size * 0.6, size * 0.6, (150, 206, 224))
    return canvas.finished()


def lighthouse() -> Image.Image:
    canvas = Canvas(832, 480, (10, 14, 40), (44, 58, 104))
    stars = random.Random(1)
    for _ in range(110):
        size = stars.choice((0.8, 1.0, 1.6))
        canvas.oval(stars.uniform(0, 832), stars.uniform(0, 290), size, size, (220, 226, 250))
    canvas.polygon([(226, 140), (832, 30), (832, 190)], (92, 96, 116))
    canvas.polygon([(226, 140), (832, 70), (832, 150)], (156, 152, 140))
    canvas.gradient(330, 480, (20, 36, 70), (8, 16, 36))
    for index in range(9):
        y = 344 + 15 * index
        canvas.line([(400 + 40 * (index % 3), y), (560 + 50 * (index % 4), y)], (64, 84, 122), 2)
    canvas.polygon([(0, 480), (0, 352), (110, 322), (330, 330), (408, 392), (456, 480)], (30, 28, 34))
    sides = [(y, 30 + 16 * (y - 164) / 170) for y in (164, 206, 248, 290, 334)]
    for index, ((y, wide), (below, wider)) in enumerate(pairwise(sides)):
        corners = [(226 - wide, y), (226 + wide, y), (226 + wider, below), (226 - wider, below)]
        canvas.polygon(corners, (196, 50, 46) if index % 2 else (232, 228, 220))
    canvas.box(188, 158, 264, 168, (60, 60, 70))
    canvas.box(206, 122, 246, 158, (255, 234, 150))
    canvas.polygon([(198, 122), (254, 122), (226, 92)], (120, 34, 34))
    return canvas.finished()


def train() -> Image.Image:
    canvas = Canvas(832, 480, (168, 210, 236), (226, 238, 240))
    canvas.hills(300, 26, 1.3, 0.4, (158, 196, 128))
    canvas.hills(352, 12, 2.1, 2.6, (118, 168, 92))
    canvas.gradient(404, 480, (150, 120, 84), (112, 86, 58))
    for x in range(8, 832, 44):
        canvas.box(x, 416, x + 26, 430, (92, 62, 40), 2)
    canvas.box(0, 408, 832, 416, (96, 98, 106))
    for left, color in ((120, (222, 170, 52)), (300, (92, 158, 84))):
        canvas.box(left, 316, left + 156, 384, color, 8)
        canvas.box(left + 150, 372, left + 186, 380, (60, 60, 66))
        for window in (left + 20, left + 64, left + 108):
            canvas.box(window, 330, window + 30, 356, (234, 244, 250), 4)
        for wheel in (left + 34, left + 122):
            canvas.oval(wheel, 390, 20, 20, (52, 52, 60))
            canvas.oval(wheel, 390, 8, 8, (196, 196, 200))
    canvas.box(480, 270, 560, 384, (40, 92, 170), 8)
    canvas.box(468, 258, 572, 274, (28, 62, 120), 4)
    canvas.box(496, 288, 544, 326, (234, 244, 250), 4)
    canvas.box(552, 318, 690, 384, (52, 112, 196), 12)
    canvas.box(640, 278, 664, 322, (34, 40, 52), 3)
    canvas.polygon([(690, 360), (724, 396), (690, 396)], (180, 46, 42))
    for wheel, size in ((520, 26), (590, 20), (650, 20)):
        canvas.oval(wheel, 410 - size, size, size, (52, 52, 60))
        canvas.oval(wheel, 410 - size, size * 0.4, size * 0.4, (210, 60, 50))
    for x, y, size in ((650, 246, 20), (618, 210, 28), (570, 172, 36), (508, 140, 42)):
        canvas.oval(x, y, size, size * 0.85, (248, 248, 250))
    return canvas.finished()


def windmill() -> Image.Image:
    canvas = Canvas(832, 480, (110, 172, 226), (214, 234, 242))
    for x, y, size in ((120, 96, 28), (650, 120, 34), (700, 70, 22)):
        for step in (-1.3, 0, 1.3):
            canvas.oval(x + step * size, y, size, size * (0.6 if step else 0.9), (250, 251, 252))
    canvas.hills(348, 10, 1.1, 1.4, (120, 172, 96))
    canvas.polygon([(372, 176), (460, 176), (490, 372), (342, 372)], (240, 238, 230))
    canvas.polygon([(360, 178), (472, 178), (416, 118)], (146, 62, 48))
    canvas.box(398, 322, 434, 372, (112, 76, 50), 14)
    canvas.box(404, 232, 428, 258, (96, 132, 160), 3)
    for quarter in range(4):
        angle = math.radians(24 + 90 * quarter)
        along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))

        def place(distance: float, side: float, along: Point = along, across: Point = across) -> Point:
            return 416 + distance * along[0] + side * across[0], 166 + distance * along[1] + side * across[1]

        canvas.polygon([place(34, 2), place(150, 2), place(150, 32), place(34, 26)], (222, 206, 170))
        canvas.line([place(0, 0), place(154, 0)], (98, 66, 44), 6)
    canvas.oval(416, 166, 10, 10, (70, 46, 32))
    canvas.gradient(372, 480, (86, 146, 70), (52, 104, 48))
    flowers = random.Random(2)
    for row in range(5):
        ground = 386 + 20 * row
        color = ((222, 60, 66), (246, 196, 60), (232, 120, 170), (222, 60, 66), (246, 196, 60))[row]
        for index in range(34 - 3 * row):
            place_in_row = (index + flowers.uniform(0.2, 0.8)) * 832 / (34 - 3 * row)
            canvas.line([(place_in_row, ground), (place_in_row, ground + 12)], (40, 96, 44), 2)
            canvas.oval(place_in_row, ground, 4 + row, 5 + row, color)
    return canvas.finished()


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    drawing.__name__: drawing for drawing in (balloon, boat, fishbowl, lighthouse, train, windmill)
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in DRAWINGS.items():
        drawing().save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
