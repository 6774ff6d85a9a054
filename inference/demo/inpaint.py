"""Objects to replace under a mask: what is there, what shall be there, and where to paint."""

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.demo.captions import plain_caption
from inference.demo.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    draw,
    held_out,
    placement,
    random_scene,
)

MASKS = ("box", "ellipse")


def mask_around(
    scene: Scene, width: int, height: int, kind: str, margin: float
) -> NDArray[np.bool_]:
    """Return a box or an ellipse around a settled scene's object, `margin` pixels larger.

    The ellipse goes through the corners of the box that an object of any shape fits in.
    """
    x, y, radius = placement(scene, width, height)
    half = radius + margin if kind == "box" else 2**0.5 * radius + margin / 2
    mask = Image.new("1", (width, height))
    box = (x - half, y - half, x + half, y + half)
    pen = ImageDraw.Draw(mask)
    (pen.rectangle if kind == "box" else pen.ellipse)(box, fill=1)
    return np.asarray(mask)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A scene, the scene it becomes, the prompt, and how its object is masked."""

    before: Scene
    after: Scene
    prompt: str
    mask_kind: str
    margin: float
    size: tuple[int, int]
    seed: int

    def drawings(self) -> tuple[Image.Image, Image.Image]:
        """Return the picture to paint in, and how it should look afterwards."""
        first, second = (
            Image.fromarray(draw(scene, *self.size, random.Random(self.seed)))
            for scene in (self.before, self.after)
        )
        return first, second

    def mask(self) -> NDArray[np.bool_]:
        """Return where to paint, height x width."""
        return mask_around(self.before, *self.size, self.mask_kind, self.margin)


def replacements(count: int, seed: int, *, held: bool = True) -> list[Replacement]:
    """Return objects to replace by another colour and shape on the same background.

    Every other prompt says only that: "a blue star"; the rest say everything about the picture.
    """
    rng = random.Random(seed)
    found: list[Replacement] = []
    while len(found) < count:
        before = random_scene(rng, held=False)
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        after = replace(before, colour=colour, shape=shape)
        if colour in (before.colour, before.background) or shape == before.shape:
            continue
        if held_out(after) != held:
            continue
        index = len(found)
        said = after if index % 4 > 1 else after.keep({"colour", "shape"})
        size, kind = SIZES[index % len(SIZES)], MASKS[index % 2]
        margin = rng.uniform(4, 10)
        found.append(
            Replacement(before, after, plain_caption(said), kind, margin, size, 1000 * seed + index)
        )
    return found


def paste_back(before: Image.Image, painted: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """Return the painted picture with the original's own pixels outside the mask."""
    return Image.composite(painted, before, Image.fromarray(mask))
