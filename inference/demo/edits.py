"""Edits of the demo model's pictures: another colour, background or shape in the same layout."""

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.demo.captions import edit_instruction
from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    draw,
    held_out,
    random_scene,
)

KINDS = ("colour", "background", "shape")


@dataclass(frozen=True, slots=True)
class Edit:
    """A scene, the scene it becomes, and the sentence that asks for it."""

    kind: str
    before: Scene
    after: Scene
    instruction: str

    def drawings(
        self, width: int, height: int, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw both scenes with the same small variations: what is not edited stays equal."""
        first, second = (
            draw(scene, width, height, random.Random(seed)) for scene in (self.before, self.after)
        )
        return first, second


def random_edit(kind: str, rng: random.Random, *, held: bool) -> Edit:
    """Return an edit whose outcome was, or was not, held out of all training."""
    values = {"colour": list(COLOURS), "background": list(BACKGROUNDS), "shape": list(SHAPES)}
    while True:
        before = random_scene(rng, held=False)
        now = getattr(before, kind)
        value = rng.choice([value for value in values[kind] if value != now])
        after = replace(before, **{kind: value})
        if after.colour != after.background and held_out(after) == held:
            return Edit(kind, before, after, edit_instruction(kind, before, after, rng))
