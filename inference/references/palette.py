"""A picture in another one's colours, without any model.

Colours are compared in OKLab, where equal distances look about equally far, and the picture's mean
and covariance are brought to the reference's by the linear map that moves colours least. The map
depends on the colour alone, so it is computed for a lattice of colours and Pillow does the rest:
about 15 ms for the lattice and as much for a megapixel, on one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from inference.pixels import as_rgb

# float64 [..., 3]
Colours = Any

_LATTICE = 33
# Statistics need no more pixels than this.
_LOOKED_AT = (256, 256)
# The least variance of a colour axis: below it lies noise, which no map should blow up.
_LEAST_VARIANCE = 1e-5

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def transfer(picture: Image.Image, reference: Image.Image, weight: float) -> Image.Image:
    """The picture as RGB, `weight` of the way (0 to 1) towards the colours of the reference."""
    if not weight:
        return picture
    own, wanted = _statistics(picture), _statistics(reference)
    steps = np.linspace(0.0, 1.0, _LATTICE)
    # Pillow counts red fastest
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    lattice = _to_oklab(np.stack([red, green, blue], axis=-1).reshape(-1, 3))
    moved = (lattice - own[0]) @ _least_moving_map(own[1], wanted[1]) + wanted[0]
    colours = _from_oklab(lattice + weight * (moved - lattice))
    table = ImageFilter.Color3DLUT(_LATTICE, colours.astype(np.float32).reshape(-1).tolist())
    return as_rgb(picture).filter(table)


def _statistics(picture: Image.Image) -> tuple[Colours, Colours]:
    """Mean [3] and covariance [3, 3] of a picture's colours in OKLab."""
    small = as_rgb(picture)
    small.thumbnail(_LOOKED_AT, Image.Resampling.BOX)
    colours = _to_oklab(np.asarray(small, np.float64).reshape(-1, 3) / 255)
    centred = colours - colours.mean(axis=0)
    return colours.mean(axis=0), centred.T @ centred / len(centred)


def _least_moving_map(own: Colours, wanted: Colours) -> Colours:
    """The symmetric matrix that turns one covariance into the other: A½⁻ (A½ B A½)½ A½⁻."""
    root = _powered(own, 0.5)
    inverse = _powered(own, -0.5)
    return inverse @ _powered(root @ wanted @ root, 0.5) @ inverse


def _powered(matrix: Colours, power: float) -> Colours:
    values, vectors = np.linalg.eigh(matrix)
    least = _LEAST_VARIANCE if power < 0 else 0.0
    return (vectors * np.maximum(values, least) ** power) @ vectors.T


def _to_oklab(colours: Colours) -> Colours:
    bright = colours > 0.04045
    linear = np.where(bright, ((colours + 0.055) / 1.055) ** 2.4, colours / 12.92)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T


def _from_oklab(lab: Colours) -> Colours:
    """sRGB in 0..1; what no screen shows is cut off."""
    cones = (lab @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0.0, 1.0)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)
