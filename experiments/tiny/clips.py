"""The little world of the embedded model: a bright shape moves over a dark patterned background, with a caption."""

from __future__ import annotations

import math
import random
import re
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
SIZES = {"small": 14.0, "medium": 19.0, "big": 25.0}
# How far a shape of radius 1 reaches from its centre, however it is turned.
REACH = {"circle": 0.92, "square": 1.16, "triangle": 1.24}
LEAST_GROWTH, MOST_GROWTH = 0.55, 1.15
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
class Scene:
    """What a caption says; ``draw`` adds what it leaves open (places, speeds, the pattern's phase)."""

    size: str
    colour: str
    shape: str
    motion: str
    background_colour: str
    pattern: str
    slide: str = ""

    @property
    def caption(self) -> str:
        background = f"{self.background_colour} {self.pattern} background {self.slide}".strip()
        return f"a {self.size} {self.colour} {self.shape} {self.motion} over a {background}"


def scene_of(caption: str) -> Scene:
    """Return the scene that a caption says.

    Raises:
        ValueError: If it is no caption of the grammar.
    """
    things, backgrounds = (SIZES, COLOURS, SHAPES, MOTIONS), (BACKGROUND_COLOURS, PATTERNS, filter(None, SLIDES))
    words = [f"({'|'.join(choice)})" for choice in (*things, *backgrounds)]
    grammar = "a {} {} {} {} over a {} {} background(?: {})?".format(*words)
    match = re.fullmatch(grammar, caption)
    if match is None:
        raise ValueError(f"{caption!r} is no caption of the little world")
    return Scene(*match.groups(default=""))


def vocabulary() -> list[str]:
    """Return every word of the grammar, in a fixed order."""
    phrases = [*SIZES, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUND_COLOURS, *PATTERNS, *SLIDES, "a over background"]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def random_scene(rng: random.Random) -> Scene:
    """Draw a scene; one background in six slides."""
    shape = rng.choice(SHAPES)
    # A spinning circle looks like one at rest, so none spins.
    motions = [motion for motion in MOTIONS if not (motion == "spins" and shape == "circle")]
    return Scene(
        size=rng.choice(list(SIZES)),
        colour=rng.choice(list(COLOURS)),
        shape=shape,
        motion=rng.choice(motions),
        background_colour=rng.choice(list(BACKGROUND_COLOURS)),
        pattern=rng.choice(PATTERNS),
        slide=rng.choice(["sliding left", "sliding right"]) if rng.random() < 1 / 6 else "",
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


def draw(
    scenes: list[Scene], seed: int, device: torch.device | str = "cpu", num_frames: int | None = None
) -> torch.Tensor:
    """Draw clips of the scenes.

    Args:
        scenes: What to draw.
        seed: Decides what the captions leave open.
        device: Where to draw.
        num_frames: Of a clip, from 2; more of them are closer in time. None: ``NUM_FRAMES``.

    Returns:
        float32 ``(clips, 3, num_frames, HEIGHT, WIDTH)`` in [0, 1].
    """
    rng = random.Random(seed)
    num_frames = num_frames or NUM_FRAMES
    video = _backgrounds(scenes, rng, device, num_frames)
    _paint(video, [_track(scene, rng, num_frames) for scene in scenes])
    return video


@dataclass(frozen=True)
class _Track:
    """A shape's colour, kind (index) and, per frame, centre, radius in pixels and angle in radians."""

    colour: tuple[float, float, float]
    shape: int
    x: list[float]
    y: list[float]
    radius: list[float]
    angle: list[float]


def _track(scene: Scene, rng: random.Random, num_frames: int) -> _Track:
    """Place the shape and let it move."""
    radius = SIZES[scene.size] * rng.uniform(0.92, 1.08)
    is_resized = scene.motion in ("grows", "shrinks")
    reach = REACH[scene.shape] * radius * (MOST_GROWTH if is_resized else 1.0) + 2
    left, right, top, bottom = reach, WIDTH - reach, reach, HEIGHT - reach
    x, y = rng.uniform(left, right), rng.uniform(top, bottom)
    assert left < right and top < bottom
    time = [frame / (num_frames - 1) for frame in range(num_frames)]
    angle = rng.uniform(0, 2 * math.pi) if scene.motion == "spins" else rng.uniform(-0.15, 0.15)
    xs, ys, radii, angles = ([value] * num_frames for value in (x, y, radius, angle))
    if scene.motion in ("moves left", "moves right"):
        travel = rng.uniform(0.65, 0.95) * (right - left)
        start = rng.uniform(left, right - travel)
        xs = [start + travel * t for t in time]
        xs = xs[::-1] if scene.motion == "moves left" else xs
    elif scene.motion in ("moves up", "moves down"):
        travel = rng.uniform(0.75, 0.98) * (bottom - top)
        start = rng.uniform(top, bottom - travel)
        ys = [start + travel * t for t in time]
        ys = ys[::-1] if scene.motion == "moves up" else ys
    elif scene.motion == "bounces":
        height = min(bottom - top, rng.uniform(26, 36))
        floor = rng.uniform(top + height, bottom)
        ys = [floor - height * abs(math.sin(2 * math.pi * t)) for t in time]
    elif scene.motion == "spins":
        turn = rng.choice([-1, 1]) * rng.uniform(1.6, 2.4) * math.pi
        angles = [angle + turn * t for t in time]
    else:
        growth = [LEAST_GROWTH + (MOST_GROWTH - LEAST_GROWTH) * t for t in time]
        radii = [radius * g for g in (growth if scene.motion == "grows" else growth[::-1])]
    return _Track(COLOURS[scene.colour], SHAPES.index(scene.shape), xs, ys, radii, angles)


def _backgrounds(scenes: list[Scene], rng: random.Random, device: torch.device | str, num_frames: int) -> torch.Tensor:
    count = len(scenes)
    colour = torch.tensor([BACKGROUND_COLOURS[scene.background_colour] for scene in scenes], device=device)
    pattern = torch.tensor([PATTERNS.index(scene.pattern) for scene in scenes], device=device)
    speed = torch.tensor([SLIDES[scene.slide] for scene in scenes], device=device) * rng.uniform(0.9, 1.1)

    def drawn(low: float, high: float) -> torch.Tensor:
        values = [rng.uniform(low, high) for _ in range(count)]
        return torch.tensor(values, device=device)[:, None, None, None]

    # Slides are so many pixels a frame of NUM_FRAMES.
    frame = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None, None]
    frame = frame * ((NUM_FRAMES - 1) / (num_frames - 1))
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


def _paint(video: torch.Tensor, tracks: list[_Track]) -> None:
    """Paint one shape into each clip, with edges as soft as a lens makes them and a shade from top to bottom."""

    def column(values: list[list[float]]) -> torch.Tensor:
        return torch.tensor(values, device=video.device)[:, :, None, None]

    centre_x, centre_y = column([track.x for track in tracks]), column([track.y for track in tracks])
    radius, angle = column([track.radius for track in tracks]), column([track.angle for track in tracks])
    dx = torch.arange(WIDTH, device=video.device) - centre_x
    dy = torch.arange(HEIGHT, device=video.device)[:, None] - centre_y
    u, v = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
    # Signed distances, inside negative; all three have the area of a circle of 0.9 radius or a little less.
    circle = (dx.square() + dy.square()).sqrt() - 0.92 * radius
    square = torch.maximum(u.abs(), v.abs()) - 0.82 * radius
    triangle = torch.maximum(v, 0.8660254 * u.abs() - 0.5 * v) - 0.62 * radius
    distances = torch.stack([circle, square, triangle], 1)
    shape = torch.tensor([track.shape for track in tracks], device=video.device)
    distance = distances[torch.arange(len(tracks), device=video.device), shape]
    alpha = (0.5 - 0.5 * (distance / EDGE).tanh())[:, None]
    shade = (1 - 0.12 * (dy / radius).clamp(-1, 1))[:, None].clamp(max=1.0)
    colour = torch.tensor([track.colour for track in tracks], device=video.device)[:, :, None, None, None]
    video.mul_(1 - alpha).add_(alpha * colour * shade)
