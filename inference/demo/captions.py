"""Wording for the demo model: captions of scenes and instructions that edit them."""

import random
from dataclasses import dataclass, replace

from inference.demo.scenes import BACKGROUNDS, COLOURS, POSITIONS, RADII, SHAPES, Scene

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "scarlet"),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "green": ("green", "green", "green", "emerald"),
    "purple": ("purple", "purple", "violet"),
    "brown": ("brown", "brown", "chocolate"),
    "gray": ("gray", "grey"),
    "beige": ("beige", "beige", "cream"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "circle", "disc", "disk", "ball", "dot"),
    "square": ("square", "square", "square", "box"),
    "star": ("star", "star", "star", "five pointed star"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium sized", "medium-sized", "mid-sized"),
    "large": ("large", "large", "big", "huge"),
}
FRAMES = ("", "", "", "a picture of ", "an image of ", "a drawing of ", "a photo of ", "draw ")
ENDINGS = ("", "", "", "", "", ".", ", flat design", ", simple", ", high quality", ", minimalist")
ABOUT_BACKGROUND = (
    "on a {0} background",
    "on a {0} background",
    "on {0}",
    "against a {0} background",
    "with a {0} background",
    "over a plain {0} background",
    "{0} background",
)


@dataclass(frozen=True, slots=True)
class Wording:
    """A sentence and what it says: what it asks for and, in an edit, what it replaces."""

    text: str
    asks: Scene
    kind: str = "caption"
    replaces: str | None = None


def _pick(words: dict[str, tuple[str, ...]], name: str, rng: random.Random) -> str:
    return rng.choice(words.get(name, (name,)))


def _article(phrase: str, rng: random.Random) -> str:
    article = "an" if phrase[0] in "aeiou" else "a"
    return f"{rng.choice((article, article, article, 'the', 'one'))} {phrase}"


def _thing(scene: Scene, rng: random.Random) -> str:
    """Word the object itself: size, colour and shape."""
    shape = _pick(SHAPE_WORDS, scene.shape, rng) if scene.shape else "shape"
    size = _pick(SIZE_WORDS, scene.size, rng) if scene.size else ""
    colour = _pick(COLOUR_WORDS, scene.colour, rng) if scene.colour else ""
    style = rng.random()
    if colour and style < 0.1:
        return _article(f"{size} {shape} in {colour}".strip(), rng)
    if colour and style < 0.2:
        return _article(f"{size} {shape} that is {colour}".strip(), rng)
    if size and style < 0.28:
        return _article(f"{colour} {shape}, {size},".strip(), rng)
    phrase = " ".join(part for part in (size, colour, shape) if part)
    return phrase if style > 0.8 else _article(phrase, rng)


def _place(position: str, rng: random.Random) -> str:
    """Word where the object is."""
    if position == "center":
        return rng.choice(("in the center", "in the middle", "centered", "at the center"))
    if " " in position:
        row, column = position.split()
        row = rng.choice((row, row, {"top": "upper", "bottom": "lower"}[row]))
        corner = f"{row} {column}"
        return rng.choice(
            (f"in the {corner} corner", f"at the {corner}", f"in the {corner}", corner)
        )
    if position in ("left", "right"):
        return rng.choice((f"on the {position}", f"at the {position}", f"on the {position} side"))
    return rng.choice((f"at the {position}", f"near the {position}", f"in the {position}"))


def caption(scene: Scene, rng: random.Random) -> str:
    """Say what a scene says, in one of many ways."""
    thing = _thing(scene, rng)
    place = _place(scene.position, rng) if scene.position else ""
    ground = ""
    if scene.background:
        word = _pick(COLOUR_WORDS, scene.background, rng)
        ground = rng.choice(ABOUT_BACKGROUND).format(word)
        if rng.random() < 0.12:
            body = f"{_article(word, rng)} background with {thing} {place}"
            return _finish(body, rng)
    parts = [thing, place, ground] if rng.random() < 0.7 else [thing, ground, place]
    if ground.startswith(("on a", "against")) and rng.random() < 0.1:
        parts = [f"{ground},", thing, place]
    joint = rng.choice((" ", " ", ", "))
    return _finish(joint.join(part for part in parts if part), rng)


def _finish(body: str, rng: random.Random) -> str:
    # The text encoder reads 24 tokens: what is long already gets no ending.
    ending = rng.choice(ENDINGS) if len(body.split()) < 15 else ""
    text = rng.choice(FRAMES) + body.strip() + ending
    text = " ".join(text.replace(",,", ",").replace(", ,", ",").split())
    return text.capitalize() if rng.random() < 0.15 else text


def plain_caption(scene: Scene) -> str:
    """Say what a scene says in one fixed, plain way."""
    words = [word for word in (scene.size, scene.colour, scene.shape or "shape") if word]
    text = ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)
    if scene.position:
        corner = " corner" if " " in scene.position else ""
        side = "on" if scene.position in ("left", "right") else "at"
        text += f" {'in' if corner else side} the {scene.position}{corner}"
    return text + (f" on a {scene.background} background" if scene.background else "")


def instruction(rng: random.Random) -> Wording:
    """Word an edit: of the colour, the background, the shape, the place or the size."""
    return rng.choice((_recolour, _reground, _reshape, _move, _resize))(rng)


def edit_instruction(kind: str, before: Scene, after: Scene, rng: random.Random) -> str:
    """Word the edit that leads from one scene to another: of its colour, background or shape."""
    if kind == "colour":
        return _recolour(rng, after.colour, before.shape).text
    if kind == "background":
        return _reground(rng, after.background).text
    return _reshape(rng, after.shape, before.shape).text


def _it(rng: random.Random, shape: str | None = None) -> tuple[str, str | None]:
    shape = shape or rng.choice(SHAPES)
    word = _pick(SHAPE_WORDS, shape, rng)
    # Half by its name: those sentences are the hardest to learn.
    return rng.choice((("it", None), ("the shape", None), *[(f"the {word}", shape)] * 2))


def _recolour(rng: random.Random, colour: str | None = None, source: str | None = None) -> Wording:
    colour, (thing, shape) = colour or rng.choice(list(COLOURS)), _it(rng, source)
    word = _pick(COLOUR_WORDS, colour, rng)
    form = rng.choice(("make {0} {1}", "turn {0} {1}", "paint {0} {1}", "change {0} to {1}"))
    if thing == "it" and rng.random() < 0.3:
        form = rng.choice(("change the color to {1}", "make the colour {1}"))
    return Wording(form.format(thing, word), Scene(colour=colour), "colour", shape)


def _reground(rng: random.Random, background: str | None = None) -> Wording:
    background = background or rng.choice(list(BACKGROUNDS))
    form = rng.choice(
        (
            "change the background to {0}",
            "make the background {0}",
            "turn the background {0}",
            "put it on a {0} background",
            "use a {0} background",
            "{0} background",
        )
    )
    text = form.format(_pick(COLOUR_WORDS, background, rng))
    return Wording(text, Scene(background=background), "background")


def _reshape(rng: random.Random, shape: str | None = None, before: str | None = None) -> Wording:
    thing, source = _it(rng, before)
    shape = shape or rng.choice([name for name in SHAPES if name != source])
    word = _pick(SHAPE_WORDS, shape, rng)
    form = rng.choice(
        ("turn {0} into a {1}", "replace {0} with a {1}", "change {0} to a {1}", "make {0} a {1}")
    )
    return Wording(form.format(thing, word), Scene(shape=shape), "shape", source)


def _move(rng: random.Random) -> Wording:
    position, (thing, source) = rng.choice(list(POSITIONS)), _it(rng)
    place = position if " " not in position else rng.choice((position, f"{position} corner"))
    form = rng.choice(("move {0} to the {1}", "put {0} in the {1}", "place {0} at the {1}"))
    return Wording(form.format(thing, place), Scene(position=position), "position", source)


def _resize(rng: random.Random) -> Wording:
    size, (thing, source) = rng.choice(list(RADII)), _it(rng)
    word = _pick(SIZE_WORDS, size, rng)
    if size != "medium" and rng.random() < 0.4:
        word = {"small": "smaller", "large": rng.choice(("bigger", "larger"))}[size]
    return Wording(f"make {thing} {word}", Scene(size=size), "size", source)


def wording(scene: Scene, rng: random.Random) -> Wording:
    """Word a caption and keep what it says beside it."""
    return Wording(caption(scene, rng), replace(scene))
