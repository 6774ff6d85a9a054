"""Writing prompts out for the demo model: everything that it can draw is said, nothing else."""

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

from inference.demo.captions import COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, plain_caption
from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RADII,
    SHAPES,
    Scene,
    held_out,
    usual_background,
    usual_size,
)


def _spellings(names: Iterable[str], words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Every word that means one of the names, and that name."""
    return {word: name for name in names for word in (name, *words.get(name, ()))}


_COLOURS = _spellings([*COLOURS, *BACKGROUNDS], COLOUR_WORDS)
_SHAPES = _spellings(SHAPES, SHAPE_WORDS)
_SIZES = _spellings(RADII, SIZE_WORDS)
_ROWS = {"upper": "top", "lower": "bottom"}


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COLOUR = re.compile(rf"\b({_any_of(_COLOURS)})\b")
_SHAPE = re.compile(rf"\b({_any_of(_SHAPES)})(?:e?s)?\b")
_SIZE = re.compile(rf"\b({_any_of(_SIZES)})\b")
# "on blue" is a background at the end of a phrase; in "on a blue box" it is not.
_GROUND = re.compile(
    rf"\b(?P<before>{_any_of(_COLOURS)})\s+background\b"
    rf"|\bbackground\s*(?:is|in|of|:)?\s*(?P<after>{_any_of(_COLOURS)})\b"
    rf"|\b(?:on|against|over)\s+(?:an?\s+|the\s+)?(?:plain\s+)?(?P<bare>{_any_of(_COLOURS)})"
    r"(?=\s*(?:[,.;:!]|$|\b(?:in|at|on|near|centered)\b))"
)
_CORNER = re.compile(r"\b(top|upper|bottom|lower)[\s-]+(left|right)\b")
# Alone between commas, or with a word that places: "right" and "top" mean much else.
_SIDE = re.compile(
    r"\b(?:at|in|near|on|to)\s+(?:the\s+)?(left|right|top|bottom)\b"
    r"|(?:^|[,;])\s*(left|right|top|bottom)\s*(?=[,.;]|$)"
)
_MIDDLE = re.compile(r"\b(?:cent(?:er|re)d|in the middle|(?:at|in) the cent(?:er|re))\b")
_EDIT = re.compile(
    r"\s*(?:(?:make|turn|paint|change|replace|move|put|place)\s+(?:it|the)\b"
    r"|use\s+.*\bbackground\b)",
    re.IGNORECASE,
)


def scene_of(text: str) -> Scene:
    """What a text says of the things that the demo model can draw; the first of each counts."""
    text = " ".join(text.lower().split())
    ground = _GROUND.search(text)
    background = _COLOURS[ground[ground.lastgroup or 0]] if ground else None
    rest = _GROUND.sub(" ", text)
    colours = (_COLOURS[word] for word in _COLOUR.findall(rest))
    shape, size = _SHAPE.search(rest), _SIZE.search(rest)
    return Scene(
        colour=next((name for name in colours if name in COLOURS), None),
        shape=_SHAPES[shape[1]] if shape else None,
        background=background if background in BACKGROUNDS else None,
        position=_position(rest),
        size=_SIZES[size[1]] if size else None,
    )


def write_out(prompt: str, notes: Sequence[str] = ()) -> str:
    """The prompt as one sentence with size, colour, shape, place and background.

    What it says is kept; what it leaves open is looked for in the notes, then filled in as the
    model draws it best, always the same for one prompt. An instruction to edit stays as it is.
    """
    if _EDIT.match(prompt):
        return prompt
    scene = scene_of(prompt)
    for note in notes:
        # Running text is full of tops and lefts that place nothing.
        found = scene_of(note).keep({"colour", "shape", "background"})
        scene = Scene(**{**found.said(), **scene.said()})
    return plain_caption(_fill(scene, prompt))


def _position(text: str) -> str | None:
    if corner := _CORNER.search(text):
        return f"{_ROWS.get(corner[1], corner[1])} {corner[2]}"
    if side := _SIDE.search(text):
        return side[1] or side[2]
    return "center" if _MIDDLE.search(text) else None


def _fill(scene: Scene, prompt: str) -> Scene:
    colours = [scene.colour] if scene.colour else [c for c in COLOURS if c != scene.background]
    shapes = [scene.shape] if scene.shape else list(SHAPES)
    options = [
        Scene(colour, shape, scene.background or usual_background(colour))
        for colour, shape in product(colours, shapes)
    ]
    # What was kept out of training is drawn less surely.
    seen = [option for option in options if not held_out(option)]
    chosen = _rng(prompt).choice(seen or options)
    position = scene.position or next(iter(POSITIONS))
    return replace(chosen, position=position, size=scene.size or usual_size(position))


def _rng(prompt: str) -> random.Random:
    words = " ".join(prompt.lower().split())
    return random.Random(hashlib.sha256(words.encode("utf-8", "replace")).digest())
