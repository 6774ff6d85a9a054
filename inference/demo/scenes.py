"""The little world of the demo model: one coloured shape on a plain background."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rgb: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

# Width x height; every side is a multiple of 16: eight for the VAE times two for Flux's patches.
SIZES: tuple[tuple[int, int], ...] = (
    (128, 128),
    (128, 96),
    (96, 128),
    (144, 96),
    (96, 144),
    (144, 80),
    (80, 144),
)

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 40),
    "green": (40, 160, 70),
    "blue": (40, 90, 215),
    "purple": (125, 60, 175),
    "pink": (245, 120, 180),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}

# Softer than the objects' colours, so that an object stands out on every background but its own.
BACKGROUNDS: dict[str, Rgb] = {
    "white": (250, 250, 250),
    "black": (25, 25, 25),
    "gray": (150, 150, 150),
    "red": (215, 95, 90),
    "yellow": (250, 235, 150),
    "green": (130, 200, 140),
    "blue": (120, 170, 230),
    "purple": (190, 165, 225),
    "pink": (250, 200, 215),
    "beige": (235, 220, 190),
}

# Half the object's longer side, as a share of the picture's shorter side.
RADII: dict[str, float] = {"small": 0.175, "medium": 0.245, "large": 0.34}

# Column and row on a three by three grid.
POSITIONS: dict[str, tuple[int, int]] = {
    "center": (1, 1),
    "left": (0, 1),
    "right": (2, 1),
    "top": (1, 0),
    "bottom": (1, 2),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
}

MARGIN = 0.04
SUPERSAMPLING = 4
# Height of a stripe, in pixels: two of them are one token of the transformer.
STRIPE = 8


def _circle() -> list[Point]:
    angles = (2 * math.pi * i / 96 for i in range(96))
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> list[Point]:
    # The textbook inner radius is 0.382; a fatter star keeps its points through a small VAE.
    spokes = [(1.0 if i % 2 == 0 else 0.44, math.pi * i / 5) for i in range(10)]
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in spokes]


def _heart() -> list[Point]:
    points = []
    for i in range(96):
        t = 2 * math.pi * i / 96
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3, -y))
    return points


def _fit(points: list[Point]) -> list[Point]:
    """Centre an outline on the origin and scale its longer side to two."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    cx, cy = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return [((x - cx) / half, (y - cy) / half) for x, y in points]


OUTLINES: dict[str, list[Point]] = {
    "circle": _fit(_circle()),
    "square": _fit([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": _fit([(0, -math.sqrt(3)), (1, 0), (-1, 0)]),
    "star": _fit(_star()),
    "heart": _fit(_heart()),
    "diamond": _fit([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]),
}

SHAPES = tuple(OUTLINES)
ATTRIBUTES = ("colour", "shape", "background", "position", "size")


@dataclass(frozen=True, slots=True)
class Scene:
    """One object on a background; an attribute that is None was left unsaid."""

    colour: str | None = None
    shape: str | None = None
    background: str | None = None
    position: str | None = None
    size: str | None = None

    def said(self) -> dict[str, str]:
        """Return the attributes that have a value."""
        values = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: value for name, value in values.items() if value is not None}

    def keep(self, names: set[str]) -> "Scene":
        """Return the scene with only the named attributes said."""
        return Scene(**{name: value for name, value in self.said().items() if name in names})


def held_out(scene: Scene) -> bool:
    """Tell whether this colour, shape and background together are kept out of training."""
    if scene.colour is None or scene.shape is None or scene.background is None:
        return False
    colour = list(COLOURS).index(scene.colour)
    shape = SHAPES.index(scene.shape)
    background = list(BACKGROUNDS).index(scene.background)
    # Short prompts are mostly drawn on white, which therefore has to be trained in full.
    return scene.background != "white" and (3 * colour + 5 * shape + background) % 11 == 0


def combinations() -> Iterator[Scene]:
    """Yield every visible colour, shape and background."""
    for colour, shape, background in product(COLOURS, SHAPES, BACKGROUNDS):
        if colour != background:
            yield Scene(colour, shape, background)


def usual_background(colour: str) -> str:
    """Return the background that is drawn when none is asked for."""
    return "blue" if colour == "white" else "white"


def usual_size(position: str) -> str:
    """Return the size that is drawn when none is asked for."""
    return "large" if position == "center" else "medium"


def settle(scene: Scene, rng: random.Random, usual: float = 0.88) -> Scene:
    """Fill in what was left unsaid: the usual layout most of the time, anything otherwise."""
    background = scene.background
    colour = scene.colour or rng.choice([name for name in COLOURS if name != background])
    if background is None:
        others = [name for name in BACKGROUNDS if name != colour]
        background = usual_background(colour) if rng.random() < usual else rng.choice(others)
    position = scene.position
    if position is None:
        position = "center" if rng.random() < usual else rng.choice(list(POSITIONS))
    size = scene.size
    if size is None:
        size = usual_size(position) if rng.random() < usual else rng.choice(list(RADII))
    shape = scene.shape or rng.choice(SHAPES)
    return Scene(colour, shape, background, position, size)


def random_scene(rng: random.Random, *, held: bool = False) -> Scene:
    """Return a scene with every attribute said, from the training or the held-out part."""
    while True:
        scene = Scene(
            rng.choice(list(COLOURS)),
            rng.choice(SHAPES),
            rng.choice(list(BACKGROUNDS)),
            rng.choice(list(POSITIONS)),
            rng.choice(list(RADII)),
        )
        if scene.colour != scene.background and held_out(scene) == held:
            return scene


def random_wish(rng: random.Random, short: float = 0.42, full: float = 0.36) -> Scene:
    """Return what a training caption will say: everything, colour and shape, or some of it."""
    scene, draw = random_scene(rng), rng.random()
    if draw < full:
        return scene
    if draw < full + short:
        return scene.keep({"colour", "shape"})
    names = {name for name in ATTRIBUTES if rng.random() < 0.5}
    return scene.keep(names | ({"shape"} if rng.random() < 0.8 else set()))


def placement(scene: Scene, width: int, height: int) -> tuple[float, float, float]:
    """Return the centre and the radius, in pixels, of a settled scene's object."""
    shorter = min(width, height)
    radius, margin = RADII[scene.size or "large"] * shorter, MARGIN * shorter
    column, row = POSITIONS[scene.position or "center"]
    xs = (radius + margin, width / 2, width - radius - margin)
    ys = (radius + margin, height / 2, height - radius - margin)
    return xs[column], ys[row], radius


def outline_mask(
    shape: str, x: float, y: float, radius: float, width: int, height: int
) -> NDArray[np.float32]:
    """Return how much of each pixel the shape covers, from 0 to 1."""
    scale = SUPERSAMPLING
    canvas = Image.new("L", (width * scale, height * scale), 0)
    points = [((x + px * radius) * scale, (y + py * radius) * scale) for px, py in OUTLINES[shape]]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / np.float32(255)


def _shade(rgb: Rgb, rng: random.Random | None) -> NDArray[np.float32]:
    shade = [c + (rng.randint(-6, 6) if rng else 0) for c in rgb]
    return np.array([min(255, max(0, c)) for c in shade], np.float32)


def in_stripe(height: int) -> NDArray[np.bool_]:
    """Tell which rows of a picture lie in a stripe; every other band of eight does."""
    return np.asarray(np.arange(height) // STRIPE % 2 == 1)


def stripe_shade(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colour of the stripes on an object: half as bright, or brighter if near black."""
    return np.asarray(rgb * 0.5 if rgb.max() > 60 else rgb + 75, np.float32)


def draw(
    scene: Scene,
    width: int,
    height: int,
    rng: random.Random | None = None,
    *,
    striped: bool = False,
) -> NDArray[np.uint8]:
    """Draw a settled scene; with a generator, vary its shade, place and size a little."""
    x, y, radius = placement(scene, width, height)
    if rng is not None:
        x, y = x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5)
        radius *= rng.uniform(0.96, 1.04)
    cover = outline_mask(scene.shape or "circle", x, y, radius, width, height)[..., None]
    front = _shade(COLOURS[scene.colour or "red"], rng)
    back = _shade(BACKGROUNDS[scene.background or "white"], rng)
    if striped:
        front = np.where(in_stripe(height)[:, None, None], stripe_shade(front), front)
    return np.round(cover * front + (1 - cover) * back).astype(np.uint8)


def picture(scene: Scene, width: int, height: int, seed: int | None = None) -> Image.Image:
    """Draw a scene as an image, settling whatever it leaves unsaid."""
    rng = random.Random(seed)
    whole = settle(scene, rng, usual=1.0)
    return Image.fromarray(draw(whole, width, height, None if seed is None else rng))
