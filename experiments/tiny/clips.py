"""The little world of the embedded model: bright shapes that move over dark patterned backgrounds, with captions."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch

NUM_FRAMES, HEIGHT, WIDTH = 33, 96, 160

COLOURS = {
    "red": (0.92, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.12, 0.80, 0.20),
    "cyan": (0.10, 0.85, 0.92),
    "blue": (0.15, 0.25, 0.95),
    "magenta": (0.92, 0.15, 0.85),
    "white": (0.97, 0.97, 0.97),
}
# Half-width of an edge in pixels.
EDGE = 1.2
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 12.0, "medium": 16.5, "big": 22.0}
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "spins", "grows", "shrinks", "bounces")
BACKGROUND_COLOURS = {
    "gray": (0.42, 0.42, 0.42),
    "navy": (0.12, 0.16, 0.44),
    "teal": (0.08, 0.38, 0.38),
    "brown": (0.42, 0.25, 0.12),
    "olive": (0.36, 0.36, 0.08),
    "maroon": (0.42, 0.08, 0.14),
    "violet": (0.32, 0.14, 0.44),
    "moss": (0.10, 0.36, 0.14),
}
PATTERNS = ("plain", "striped", "checkered", "dotted", "cloudy")
SLIDES = {"": (0.0, 0.0), "sliding left": (-1.0, 0.0), "sliding right": (1.0, 0.0)}


@dataclass(frozen=True)
class Thing:
    """One moving shape, in the words of the caption."""

    size: str
    colour: str
    shape: str
    motion: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Scene:
    """What a caption says; ``draw`` adds what it leaves open (places, speeds, the pattern's phase)."""

    things: tuple[Thing, ...]
    background_colour: str
    pattern: str
    slide: str = ""

    @property
    def caption(self) -> str:
        things = " and ".join(str(thing) for thing in self.things)
        return f"{things} over a {self.background_colour} {self.pattern} background {self.slide}".strip()


def vocabulary() -> list[str]:
    """Return every word of the grammar, in a fixed order."""
    phrases = [*SIZES, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUND_COLOURS, *PATTERNS, *SLIDES, "a and over background"]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def random_scene(rng: random.Random) -> Scene:
    """Draw a scene: one thing, or two of different colours in a quarter of the scenes; one background in six slides."""
    colours = rng.sample(list(COLOURS), 2 if rng.random() < 0.25 else 1)
    return Scene(
        tuple(_random_thing(rng, colour) for colour in colours),
        rng.choice(list(BACKGROUND_COLOURS)),
        rng.choice(PATTERNS),
        rng.choice(["sliding left", "sliding right"]) if rng.random() < 1 / 6 else "",
    )


def scenes(seed: int, count: int, exclude: frozenset[str] = frozenset()) -> list[Scene]:
    """Return ``count`` scenes drawn with ``seed``, none with a caption in ``exclude``."""
    rng = random.Random(seed)
    drawn: list[Scene] = []
    while len(drawn) < count:
        scene = random_scene(rng)
        if scene.caption not in exclude:
            drawn.append(scene)
    return drawn


def draw(scenes: list[Scene], seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw clips of the scenes.

    Args:
        scenes: What to draw.
        seed: Decides what the captions leave open.
        device: Where to draw.

    Returns:
        float32 ``(clips, 3, NUM_FRAMES, HEIGHT, WIDTH)`` in [0, 1].
    """
    rng = random.Random(seed)
    video = _backgrounds(scenes, rng, device)
    for slot in range(max(len(scene.things) for scene in scenes)):
        _paint(video, [_track(scene, slot, rng) for scene in scenes])
    return video


@dataclass(frozen=True)
class _Track:
    """A thing's colour, shape (index) and, per frame, centre, radius in pixels and angle in radians."""

    colour: tuple[float, float, float]
    shape: int
    x: list[float]
    y: list[float]
    radius: list[float]
    angle: list[float]


def _random_thing(rng: random.Random, colour: str) -> Thing:
    shape = rng.choice(SHAPES)
    # A spinning circle looks like one at rest, so none spins.
    motions = [motion for motion in MOTIONS if not (motion == "spins" and shape == "circle")]
    return Thing(rng.choice(list(SIZES)), colour, shape, rng.choice(motions))


def _track(scene: Scene, slot: int, rng: random.Random) -> _Track | None:
    """Place a thing in its part of the picture: all of it, or the left or right half where there are two."""
    if slot >= len(scene.things):
        return None
    thing, width = scene.things[slot], WIDTH / len(scene.things)
    radius = SIZES[thing.size] * rng.uniform(0.92, 1.08)
    left = slot * width + radius + 3
    right = (slot + 1) * width - radius - 3
    top, bottom = radius + 3, HEIGHT - radius - 3
    x, y = rng.uniform(left, right), rng.uniform(top, bottom)
    time = [frame / (NUM_FRAMES - 1) for frame in range(NUM_FRAMES)]
    angle = rng.uniform(0, 2 * math.pi) if thing.motion == "spins" else rng.uniform(-0.15, 0.15)
    xs, ys, radii, angles = [x] * NUM_FRAMES, [y] * NUM_FRAMES, [radius] * NUM_FRAMES, [angle] * NUM_FRAMES
    if thing.motion in ("moves left", "moves right"):
        travel = rng.uniform(0.65, 0.95) * (right - left)
        start = rng.uniform(left, right - travel)
        xs = [start + travel * t for t in time]
        xs = xs[::-1] if thing.motion == "moves left" else xs
    elif thing.motion in ("moves up", "moves down"):
        travel = rng.uniform(0.75, 0.98) * (bottom - top)
        start = rng.uniform(top, bottom - travel)
        ys = [start + travel * t for t in time]
        ys = ys[::-1] if thing.motion == "moves up" else ys
    elif thing.motion == "bounces":
        height = min(bottom - top, rng.uniform(26, 36))
        floor = rng.uniform(top + height, bottom)
        ys = [floor - height * abs(math.sin(2 * math.pi * t)) for t in time]
    elif thing.motion == "spins":
        turn = rng.choice([-1, 1]) * rng.uniform(1.6, 2.4) * math.pi
        angles = [angle + turn * t for t in time]
    else:
        growth = [0.55 + 0.6 * t for t in time]
        radii = [radius * g for g in (growth if thing.motion == "grows" else growth[::-1])]
        xs = [min(max(x, left + 0.15 * radius), right - 0.15 * radius)] * NUM_FRAMES
        ys = [min(max(y, top + 0.15 * radius), bottom - 0.15 * radius)] * NUM_FRAMES
    return _Track(COLOURS[thing.colour], SHAPES.index(thing.shape), xs, ys, radii, angles)


def _backgrounds(scenes: list[Scene], rng: random.Random, device: torch.device | str) -> torch.Tensor:
    count = len(scenes)
    colour = torch.tensor([BACKGROUND_COLOURS[scene.background_colour] for scene in scenes], device=device)
    pattern = torch.tensor([PATTERNS.index(scene.pattern) for scene in scenes], device=device)
    speed = torch.tensor([SLIDES[scene.slide] for scene in scenes], device=device) * rng.uniform(0.9, 1.1)

    def drawn(low: float, high: float) -> torch.Tensor:
        values = [rng.uniform(low, high) for _ in range(count)]
        return torch.tensor(values, device=device)[:, None, None, None]

    frame = torch.arange(NUM_FRAMES, device=device, dtype=torch.float32)[:, None, None]
    x = torch.arange(WIDTH, device=device, dtype=torch.float32) - frame * speed[:, 0, None, None, None] + drawn(0, 40)
    y = torch.arange(HEIGHT, device=device, dtype=torch.float32)[:, None] - frame * 0 + drawn(0, 40)
    period = drawn(18, 26)
    u, v = 2 * math.pi * x / period, 2 * math.pi * y / period
    tilt = drawn(0, math.pi)
    striped = (2.5 * (u * tilt.cos() + v * tilt.sin()).sin()).tanh()
    checkered = (4 * u.sin() * v.sin()).tanh()
    dotted = (3 * (u.cos() + v.cos() - 1.0)).tanh()
    cloudy = (
        sum((a * u + b * v + drawn(0, 6)).sin() for a, b in ((0.31, 0.17), (-0.22, 0.35), (0.55, -0.13), (0.12, 0.6)))
        / 2.5
    )
    shade = torch.zeros_like(u)
    for index, texture in enumerate((shade, striped, checkered, dotted, cloudy)):
        shade = torch.where((pattern == index)[:, None, None, None], texture, shade)
    return (colour[:, :, None, None, None] * (0.72 + 0.36 * shade[:, None])).clamp(0, 1)


def _paint(video: torch.Tensor, tracks: list[_Track | None]) -> None:
    """Paint one thing into each clip that has it, with edges as soft as a lens makes them and a shade from top to bottom."""
    present = [index for index, track in enumerate(tracks) if track is not None]
    if not present:
        return
    shown = [track for track in tracks if track is not None]

    def column(values: list[list[float]]) -> torch.Tensor:
        return torch.tensor(values, device=video.device)[:, :, None, None]

    centre_x, centre_y = column([track.x for track in shown]), column([track.y for track in shown])
    radius, angle = column([track.radius for track in shown]), column([track.angle for track in shown])
    dx = torch.arange(WIDTH, device=video.device) - centre_x
    dy = torch.arange(HEIGHT, device=video.device)[:, None] - centre_y
    u, v = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
    # Signed distances, inside negative; all three have the area of a circle of 0.9 radius or a little less.
    circle = (dx.square() + dy.square()).sqrt() - 0.92 * radius
    square = torch.maximum(u.abs(), v.abs()) - 0.82 * radius
    triangle = torch.maximum(v, 0.8660254 * u.abs() - 0.5 * v) - 0.62 * radius
    distances = torch.stack([circle, square, triangle], 1)
    shape = torch.tensor([track.shape for track in shown], device=video.device)
    distance = distances[torch.arange(len(shown), device=video.device), shape]
    alpha = (0.5 - 0.5 * (distance / EDGE).tanh())[:, None]
    shade = (1 - 0.12 * (dy / radius).clamp(-1, 1))[:, None].clamp(max=1.0)
    colour = torch.tensor([track.colour for track in shown], device=video.device)[:, :, None, None, None]
    index = torch.tensor(present, device=video.device)
    video[index] = video[index] * (1 - alpha) + alpha * colour * shade
