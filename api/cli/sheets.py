"""What the gallery shows: for each field of a request, pictures that differ in it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from api.cli.paper import Cell
from api.cli.studio import Studio, Wish
from inference.sizes import shrunk

SIDE_PX = 128
PROMPT = "a red circle on a blue background"
FILL = "tiny-flux-fill"
EDIT = "tiny-flux-kontext"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One field: what is to be seen, and who draws it."""

    says: str
    draw: Callable[[Studio], list[Cell]]


def _prompt(studio: Studio) -> list[Cell]:
    prompts = (
        *("a red circle", "an orange diamond", "a green square on a black background"),
        *("a large pink heart on a blue background", "a purple triangle on a yellow background"),
        "a small yellow star in the top left",
    )
    cells = studio.row({prompt: {"prompt": prompt} for prompt in prompts})
    return [Cell(_broken(cell.label), cell.picture) for cell in cells]


def _seed(studio: Studio) -> list[Cell]:
    return studio.row({f"seed {seed}": {"prompt": "a star", "seed": seed} for seed in range(1, 7)})


def _steps(studio: Studio) -> list[Cell]:
    steps = (1, 2, 3, 4, 8, 16)
    return studio.row({f"steps {n}": {"prompt": PROMPT, "num_inference_steps": n} for n in steps})


def _guidance(studio: Studio) -> list[Cell]:
    scales = (0, 1, 2, 3, 5, 8)
    prompt = "a small yellow star in the top left on a purple background"
    return studio.row({f"guidance {n}": {"prompt": prompt, "guidance_scale": n} for n in scales})


def _negative_prompt(studio: Studio) -> list[Cell]:
    wishes: dict[str, Wish] = {}
    for seed, word in ((1, "black"), (4, "red"), (6, "blue")):
        wish = {"prompt": "a star", "seed": seed}
        wishes[f"seed {seed}"] = wish
        wishes[f"seed {seed}, without {word}"] = wish | {"negative_prompt": word}
    return studio.row(wishes)


def _sizes(studio: Studio) -> list[Cell]:
    ratios = ("1:1", "4:3", "3:4", "16:9", "9:16")
    return studio.row({ratio: {"prompt": PROMPT, "aspect_ratio": ratio} for ratio in ratios})


def _follow(studio: Studio) -> list[Cell]:
    cells = []
    for ratio in ("4:3", "9:16", "16:9"):
        source = studio.one(prompt=PROMPT, aspect_ratio=ratio)
        wish = {"prompt": "a yellow star", "image": source, "strength": 0.9}
        cells += [Cell(f"source, {ratio}", source), *studio.row({"a yellow star": wish})]
    return cells


def _strength(studio: Studio) -> list[Cell]:
    source = studio.one(prompt=PROMPT)
    wish = {"prompt": "a yellow star on a blue background", "image": source}
    strengths = (0.2, 0.4, 0.6, 0.8, 1.0)
    made = studio.row({f"strength {one:g}": wish | {"strength": one} for one in strengths})
    return [Cell("source", source), *made]


def _mask(studio: Studio) -> list[Cell]:
    source, mask = studio.one(prompt=PROMPT), _centre()
    wish = {"image": source, "mask": mask, "model": FILL}
    prompts = ("a yellow star", "a green square", "a white heart", "a black triangle")
    made = studio.row({prompt: wish | {"prompt": prompt} for prompt in prompts})
    return [Cell("source", source), Cell("mask", mask), *made]


def _mask_blur(studio: Studio) -> list[Cell]:
    source, mask = studio.one(prompt="a red circle"), _right_half()
    wish = {"image": source, "mask": mask, "strength": 1.0}
    wish |= {"prompt": "a blue star on a yellow background"}
    blurs = (0, 8, 16, 24)
    made = studio.row({f"mask_blur {blur}": wish | {"mask_blur": blur} for blur in blurs})
    return [Cell("source", source), Cell("mask", mask), *made]


def _lora_strength(studio: Studio) -> list[Cell]:
    strengths = (-1, -0.5, 0, 0.5, 1, 1.25)
    return studio.row(
        {f"strength {one:g}": {"prompt": PROMPT, "loras": {"stripes": one}} for one in strengths}
    )


def _lora_rank(studio: Studio) -> list[Cell]:
    wish = {"prompt": PROMPT, "loras": {"stripes": 1}}
    ranks = (8, 4, 2, 1)
    wishes = {"as trained": wish} | {f"rank {rank}": wish | {"lora_rank": rank} for rank in ranks}
    return studio.row(wishes)


def _profile(studio: Studio) -> list[Cell]:
    names = ("vanilla", "lightning", "striped")
    return studio.row({name: {"prompt": PROMPT, "profile": name} for name in names})


def _downsizing(studio: Studio) -> list[Cell]:
    source = studio.one(prompt=PROMPT, loras={"stripes": 1.25})
    wish = {"image": source, "mask": _right_half(), "strength": 1.0, "prompt": PROMPT}
    wishes: dict[str, Wish] = {"as it is": wish}
    for most in (0.004, 0.001, 0.0005, 0.0002):
        width, height = shrunk(*source.size, most)
        wishes[f"{most:g} MP: {width}x{height}"] = wish | {"downsizing_mp": most}
    return [Cell("source", source), *studio.row(wishes)]


def _palette(studio: Studio) -> list[Cell]:
    reference = studio.one(prompt="a large orange heart on a purple background")
    weights = (0.0, 0.25, 0.5, 1.0)
    wishes = {
        f"weight {one:g}": {"prompt": PROMPT, "references": [("palette", one, reference)]}
        for one in weights
    }
    return [Cell("palette of", reference), *studio.row(wishes)]


def _edit(studio: Studio) -> list[Cell]:
    source = studio.one(prompt=PROMPT)
    wish = {"model": EDIT, "mode": "edit", "image": source}
    prompts = ("make it yellow", "turn it into a star", "make the background green")
    return [Cell("source", source), *studio.row({one: wish | {"prompt": one} for one in prompts})]


def _centre() -> Image.Image:
    mask, edge = Image.new("L", (SIDE_PX, SIDE_PX)), SIDE_PX // 8
    mask.paste(255, (edge, edge, SIDE_PX - edge, SIDE_PX - edge))
    return mask


def _right_half() -> Image.Image:
    mask = Image.new("L", (SIDE_PX, SIDE_PX))
    mask.paste(255, (SIDE_PX // 2, 0, SIDE_PX, SIDE_PX))
    return mask


def _broken(prompt: str) -> str:
    """In two lines, the second with where it is."""
    for place in (" on ", " in "):
        prompt = prompt.replace(place, f"\n{place.strip()} ")
    return prompt


SHEETS: Mapping[str, Sheet] = {
    "prompt": Sheet("What is drawn.", _prompt),
    "seed": Sheet("Another seed, another picture; the same seed, the same one.", _seed),
    "num_inference_steps": Sheet("More steps, finer edges, and more time.", _steps),
    "guidance_scale": Sheet("How closely the prompt is followed.", _guidance),
    "negative_prompt": Sheet("What is to be kept out.", _negative_prompt),
    "aspect_ratio": Sheet("The shape of the picture; the nearest size is made.", _sizes),
    "image": Sheet("A source gives the picture its shape where no size is named.", _follow),
    "strength": Sheet("How far the picture leaves its source.", _strength),
    "mask": Sheet("White is painted anew; the rest is the source to the byte.", _mask),
    "mask_blur": Sheet("Pixels over which the mask's edge fades into the source.", _mask_blur),
    "lora_strength": Sheet("1 is as trained, 0 without, below 0 the opposite.", _lora_strength),
    "lora_rank": Sheet(
        "So many components of each layer are kept: the most telling ones.", _lora_rank
    ),
    "profile": Sheet("Named sets of LoRAs, steps and guidance.", _profile),
    "downsizing_mp": Sheet(
        "What is left of a source, here of its left half, that is shrunk first.", _downsizing
    ),
    "references": Sheet("The colours of another picture, by weight.", _palette),
    "edit": Sheet("Changed as the prompt says.", _edit),
}
