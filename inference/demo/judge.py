"""A pixel classifier: what does a picture of one object show, and is that what was asked for?

`judge(image, Scene(colour="red", shape="circle"))` answers with a verdict: `right` if every
attribute that the scene names is as asked, `matches` for each of them, and `seen`, the scene that
the picture shows. It knows the palette and outlines that pictures are drawn with, and no network.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    OUTLINES,
    POSITIONS,
    RADII,
    Rgb,
    Scene,
    outline_mask,
    placement,
)

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]

TEMPLATE = 64
# Below this overlap with every known outline the object is a blob, not a shape: drawings reach
# 0.85 and more (0.92 in all but one of twenty), a circle turned pentagon 0.81.
LEAST_FIT = 0.84
# A picture holds an object if this share of its pixels differs from the background.
LEAST_AREA = 0.006
# How far from its background, in RGB units, a pixel has to be to count as part of the object.
LEAST_CONTRAST = 24.0
# The background is plain unless this share of the picture strays this far from it.
STRAY_CONTRAST = 40.0
MOST_STRAY = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture shows, and which of the attributes asked for are right."""

    seen: Scene
    matches: dict[str, bool]
    fit: float

    @property
    def right(self) -> bool:
        """Tell whether everything asked for is right."""
        return all(self.matches.values())


def _nearest(rgb: Pixels, names: dict[str, Rgb]) -> str:
    distances = {
        name: float(np.linalg.norm(rgb - np.array(value))) for name, value in names.items()
    }
    return min(distances, key=lambda name: distances[name])


def _largest(mask: Mask) -> Mask:
    """Keep the largest connected part of a mask."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce(
            [labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    values, counts = np.unique(labels[mask], return_counts=True)
    return np.asarray(labels == values[counts.argmax()])


def _background(pixels: Pixels) -> Pixels:
    """Return the colour of the corners: no object reaches more than one of them."""
    corners = (pixels[:8, :8], pixels[:8, -8:], pixels[-8:, :8], pixels[-8:, -8:])
    medians = np.stack([np.median(corner.reshape(-1, 3), axis=0) for corner in corners])
    return np.asarray(np.median(medians, axis=0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Object:
    """The pixels that belong to the object, how much of each it covers, and its colour."""

    mask: Mask
    cover: Pixels
    colour: Pixels


def _object(pixels: Pixels, background: Pixels) -> _Object | None:
    """Find the one object of a picture, if there is any."""
    difference = np.linalg.norm(pixels - background, axis=-1)
    rough = difference > LEAST_CONTRAST
    if rough.mean() < LEAST_AREA:
        return None
    colour = np.median(pixels[_largest(rough)], axis=0)
    # A pixel belongs to the object if it is nearer to its colour than to the background's.
    along = colour - background
    share = ((pixels - background) @ along) / max(1.0, float(along @ along))
    mask = share > 0.5
    if mask.mean() < LEAST_AREA:
        return None
    mask = _largest(mask)
    cover = np.where(_grown(mask), np.clip(share, 0, 1), 0)
    found = np.median(pixels[mask], axis=0)
    return _Object(mask, np.asarray(cover, np.float32), np.asarray(found, np.float32))


def _grown(mask: Mask) -> Mask:
    """Return a mask with a rim of two pixels added."""
    for _ in range(2):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def _plain(pixels: Pixels, background: Pixels, mask: Mask) -> bool:
    """Tell whether there is nothing but background around the object."""
    stray = np.linalg.norm(pixels - background, axis=-1) > STRAY_CONTRAST
    return bool((stray & ~_grown(mask)).mean() < MOST_STRAY)


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@cache
def _template(shape: str) -> Mask:
    radius = TEMPLATE / 2
    return outline_mask(shape, radius, radius, radius, TEMPLATE, TEMPLATE) > 0.5


def _shape(thing: _Object) -> tuple[str, float]:
    """Return the outline that overlaps best with the object, and how well it does."""
    x0, y0, x1, y1 = _box(thing.mask)
    side = max(x1 - x0, y1 - y0)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    window = (centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2)
    # Soft edges matter: they take a small star's overlap with its outline from 0.84 to 0.85.
    grey = Image.fromarray((thing.cover * 255).astype(np.uint8))
    square = grey.transform(
        (TEMPLATE, TEMPLATE), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR
    )
    scaled = np.asarray(square) > 127
    fits = {
        shape: float((scaled & _template(shape)).sum() / (scaled | _template(shape)).sum())
        for shape in OUTLINES
    }
    best = max(fits, key=lambda shape: fits[shape])
    return best, fits[best]


def _size(mask: Mask) -> str:
    """Return the size whose radius is nearest, in ratio."""
    x0, y0, x1, y1 = _box(mask)
    radius = max(x1 - x0, y1 - y0) / 2 / min(mask.shape)
    return min(RADII, key=lambda name: abs(np.log(radius / RADII[name])))


def _position(mask: Mask, size: str) -> str:
    """Return the place on the grid whose centre is nearest, for an object of this size."""
    x0, y0, x1, y1 = _box(mask)
    height, width = mask.shape
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    distances = {
        name: float(np.linalg.norm(centre - _centre(name, size, width, height)))
        for name in POSITIONS
    }
    return min(distances, key=lambda name: distances[name])


def _centre(position: str, size: str, width: int, height: int) -> NDArray[np.float64]:
    return np.array(placement(Scene(position=position, size=size), width, height)[:2])


def look(image: Image.Image) -> tuple[Scene, float]:
    """Return the scene that a picture shows, and how well the object fits its outline."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    background = _background(pixels)
    ground = _nearest(background, BACKGROUNDS)
    found = _object(pixels, background)
    if found is None:
        return Scene(background=ground), 0.0
    shape, fit = _shape(found)
    size = _size(found.mask)
    seen = Scene(
        colour=_nearest(found.colour, COLOURS),
        shape=shape if fit >= LEAST_FIT else None,
        background=ground if _plain(pixels, background, found.mask) else None,
        position=_position(found.mask, size),
        size=size,
    )
    return seen, fit


def judge(image: Image.Image, scene: Scene) -> Verdict:
    """Compare a picture with what was asked for; what the scene leaves unsaid does not count."""
    seen, fit = look(image)
    shown = seen.said()
    matches = {name: shown.get(name) == value for name, value in scene.said().items()}
    return Verdict(seen, matches, fit)
