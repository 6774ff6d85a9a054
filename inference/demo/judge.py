"""A pixel classifier: what does a picture of one object show, and is that what was asked for?

`judge(image, Scene(colour="red", shape="circle"))` answers with a verdict: `right` if every
attribute that the scene names is as asked, `matches` for each of them, and `seen`, the scene that
the picture shows. It knows the palette and outlines that pictures are drawn with, and no network.
`stripes(image)` says how striped the object is, `kept(before, after, where)` how much stayed.
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
    in_stripe,
    outline_mask,
    placement,
    stripe_shade,
)

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]

# Below this overlap with every known outline the object has no shape: true drawings reach 0.96 and
# more, a wobbly but plain star about 0.8, an ellipse twice as wide as high 0.7 (as a circle).
LEAST_FIT = 0.75
# A picture holds an object if this share of its pixels differs from the background.
LEAST_AREA = 0.006
# How far from its background, in RGB units, a pixel has to be to count as part of the object.
LEAST_CONTRAST = 24.0
# The background is plain unless this share of the picture strays this far from it.
STRAY_CONTRAST = 40.0
MOST_STRAY = 0.01
# A pixel is kept if it moved by less than this in RGB: half as far as the two closest colours of
# the palette. Of a drawing that only goes through the autoencoder, 0.99 of the pixels are.
KEPT_CONTRAST = 24.0


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


@cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Return an outline's area and the centre of its mass, for a radius of one."""
    points = np.array(OUTLINES[shape])
    after = np.roll(points, -1, axis=0)
    cross = points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]
    area = cross.sum() / 2
    centre = ((points + after) * cross[:, None]).sum(0) / (6 * area)
    return abs(float(area)), float(centre[0]), float(centre[1])


@dataclass(frozen=True, slots=True)
class _Fit:
    """An outline laid over the object: where, how large, and how well they overlap."""

    shape: str
    x: float
    y: float
    radius: float
    overlap: float


def _lay(shape: str, cover: Pixels) -> _Fit:
    """Lay an outline of the object's own area and centre of mass over it."""
    # Area and mass, not the bounding box: a few stray pixels at the rim move a box a lot.
    height, width = cover.shape
    total = float(cover.sum())
    area, mass_x, mass_y = _moments(shape)
    radius = (total / area) ** 0.5
    x = float((cover.sum(0) @ (np.arange(width) + 0.5)) / total) - mass_x * radius
    y = float((cover.sum(1) @ (np.arange(height) + 0.5)) / total) - mass_y * radius
    drawn = outline_mask(shape, x, y, radius, width, height)
    overlap = float(np.minimum(drawn, cover).sum() / np.maximum(drawn, cover).sum())
    return _Fit(shape, x, y, radius, overlap)


def _size(fit: _Fit, shorter: int) -> str:
    """Return the size whose radius is nearest, in ratio."""
    return min(RADII, key=lambda name: abs(np.log(fit.radius / shorter / RADII[name])))


def _position(fit: _Fit, size: str, width: int, height: int) -> str:
    """Return the place on the grid whose centre is nearest, for an object of this size."""

    def distance(name: str) -> float:
        x, y, _ = placement(Scene(position=name, size=size), width, height)
        return (fit.x - x) ** 2 + (fit.y - y) ** 2

    return min(POSITIONS, key=distance)


def look(image: Image.Image) -> tuple[Scene, float]:
    """Return the scene that a picture shows, and how well the object fits its outline."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    background = _background(pixels)
    ground = _nearest(background, BACKGROUNDS)
    found = _object(pixels, background)
    if found is None:
        return Scene(background=ground), 0.0
    fit = max((_lay(shape, found.cover) for shape in OUTLINES), key=lambda fit: fit.overlap)
    height, width = found.mask.shape
    size = _size(fit, min(width, height))
    seen = Scene(
        colour=_nearest(found.colour, COLOURS),
        shape=fit.shape if fit.overlap >= LEAST_FIT else None,
        background=ground if _plain(pixels, background, found.mask) else None,
        position=_position(fit, size, width, height),
        size=size,
    )
    return seen, fit.overlap


def judge(image: Image.Image, scene: Scene) -> Verdict:
    """Compare a picture with what was asked for; what the scene leaves unsaid does not count."""
    seen, fit = look(image)
    shown = seen.said()
    matches = {name: shown.get(name) == value for name, value in scene.said().items()}
    return Verdict(seen, matches, fit)


def stripes(image: Image.Image) -> float:
    """Return how striped the object is: 0 for plain, 1 for stripes as they are drawn.

    Compares the rows that lie in a stripe with the others, inside the object; stripes in other
    rows count as negative. An empty picture has none.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    rough = np.linalg.norm(pixels - _background(pixels), axis=-1) > LEAST_CONTRAST
    if rough.mean() < LEAST_AREA:
        return 0.0
    # Two pixels of rim are left out: there object and background mix.
    inside = ~_grown(~_largest(rough))
    rows = in_stripe(len(pixels))[:, None] & np.ones_like(inside)
    striped, plain = pixels[inside & rows], pixels[inside & ~rows]
    if not len(striped) or not len(plain):
        return 0.0
    base = plain.mean(0)
    along = stripe_shade(base) - base
    return float((striped.mean(0) - base) @ along / max(1.0, float(along @ along)))


def kept(before: Image.Image, after: Image.Image, where: Mask) -> float:
    """Return the share of the pixels in `where` (height x width) that look as before."""
    first, second = (
        np.asarray(image.convert("RGB"), dtype=np.float32) for image in (before, after)
    )
    if first.shape != second.shape or not where.any():
        raise ValueError(f"nothing to compare: {first.shape}, {second.shape}, {where.sum()} pixels")
    moved = np.linalg.norm(first - second, axis=-1)
    return float((moved[where] < KEPT_CONTRAST).mean())
