"""What a ControlNet is shown of a reference picture. PIL and numpy only.

Poses and depths are found by models of their own; their maps are taken as they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from inference.pixels import fit

Array = Any

_NOISE_PX = 1.4
# Of a colour, a pixel: a line starts above the upper and goes on above the lower. They are what a
# fifth and a tenth of the step from black to white come to under that blur.
_EDGE_SLOPES = (0.028, 0.056)
# Of the shorter side: what a "blur" ControlNet was shown leaves no detail.
_BLUR_SHARE = 1 / 64
_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def condition(picture: Image.Image, kind: str, width: int, height: int) -> Image.Image:
    """The condition of a kind that `MAKERS` knows, RGB, `width` × `height` pixels."""
    return MAKERS[kind](fit(picture, width, height))


def edges(picture: Image.Image) -> Image.Image:
    """White lines of one pixel on black where colours change, after Canny."""
    smooth = picture.filter(ImageFilter.GaussianBlur(_NOISE_PX))
    slopes = np.gradient(np.asarray(smooth, np.float32) / 255, axis=(0, 1))
    # of each pixel, the colour that changes most
    strongest = np.hypot(*slopes).argmax(axis=2)[..., None]
    down, right = (np.take_along_axis(one, strongest, 2)[..., 0] for one in slopes)
    strength = np.hypot(down, right)
    ridge = np.where(_is_ridge(strength, down, right), strength, 0.0)
    low, high = _EDGE_SLOPES
    lines = _connected(ridge > high, ridge > low)
    return Image.fromarray(np.where(lines, 255, 0).astype(np.uint8)).convert("RGB")


def _is_ridge(strength: Array, down: Array, right: Array) -> Array:
    """Where no neighbour across the edge has a stronger gradient."""
    height, width = strength.shape
    padded = np.pad(strength, 1)
    # the gradient's direction in eighths of a turn, opposite ones being the same
    eighth = np.round(np.arctan2(down, right) / (np.pi / 4)).astype(int) % 4
    found = np.zeros(strength.shape, bool)
    for number, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        behind = padded[1 - y : 1 - y + height, 1 - x : 1 - x + width]
        found |= (eighth == number) & (strength >= ahead) & (strength > behind)
    return found


def _connected(certain: Array, possible: Array) -> Array:
    """The certain pixels and all possible ones that touch them, near or far."""
    found = np.pad(certain, 1)
    open_to = np.pad(possible, 1) & ~found
    front = np.argwhere(found)
    while len(front):
        around = (front[:, None] + np.array(_NEIGHBOURS)).reshape(-1, 2)
        around = around[open_to[around[:, 0], around[:, 1]]]
        front = np.unique(around, axis=0)
        found[front[:, 0], front[:, 1]] = True
        open_to[front[:, 0], front[:, 1]] = False
    return found[1:-1, 1:-1]


def grey(picture: Image.Image) -> Image.Image:
    """Its brightness alone."""
    return picture.convert("L").convert("RGB")


def blur(picture: Image.Image) -> Image.Image:
    """Its large shapes and colours alone."""
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) * _BLUR_SHARE))


def as_given(picture: Image.Image) -> Image.Image:
    """A map made elsewhere: of a pose, depth, lines or anything else."""
    return picture


MAKERS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "as_given": as_given,
    "edges": edges,
    "grey": grey,
    "blur": blur,
}
