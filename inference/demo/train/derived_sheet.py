"""Contact sheets of the derived models: what they draw, unpicked.

Run it as `python -m inference.demo.train.derived_sheet lora inference/demo/tiny-flux-stripes
docs/demo/tiny-flux-stripes.png`, and likewise for fill and edit.
"""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from diffusers import FluxFillPipeline, FluxKontextPipeline
from PIL import Image

from inference.demo import STEPS
from inference.demo.derived import load_derived
from inference.demo.inpaint import paste_back, replacements
from inference.demo.scenes import SHAPES, Scene
from inference.demo.train.edit_scores import edit_orders, make_edits
from inference.demo.train.evaluate import Order
from inference.demo.train.inpaint_scores import replace_objects
from inference.demo.train.lora_scores import STRENGTHS, load_striped, paint_at
from inference.demo.train.sheet import compose

SEED = 9
COUNT = 16
LORA_SCENES = tuple(
    Scene(colour, shape, background, "center", "large")
    for colour, shape, background in zip(
        ("red", "blue", "green", "purple", "orange", "pink"),
        SHAPES,
        ("white", "yellow", "pink", "white", "gray", "blue"),
        strict=True,
    )
)


def lora_rows(folder: Path) -> list[list[Image.Image]]:
    """Return a row for each shape with the LoRA's strength rising."""
    pipe = load_striped(folder)
    orders = [
        Order(f"a {s.colour} {s.shape} on a {s.background} background", s, (128, 128), SEED + i)
        for i, s in enumerate(LORA_SCENES)
    ]
    columns = [paint_at(pipe, orders, strength) for strength in STRENGTHS]
    return [list(row) for row in zip(*columns, strict=True)]


def in_fours(groups: Sequence[tuple[Image.Image, ...]]) -> list[list[Image.Image]]:
    """Lay small groups of pictures out four to a row."""
    starts = range(0, len(groups), 4)
    return [list(chain.from_iterable(groups[start : start + 4])) for start in starts]


def fill_rows(folder: Path, **settings: float) -> list[list[Image.Image]]:
    """Return pictures with their mask in grey, each beside what was painted there."""
    orders, groups = replacements(COUNT, SEED), []
    pipe = load_derived(folder, FluxFillPipeline)
    for order, painted in zip(orders, replace_objects(pipe, orders, **settings), strict=True):
        before, _ = order.drawings()
        mask = order.mask()
        veil = Image.blend(before, Image.new("RGB", before.size, (90, 90, 90)), 0.6)
        groups.append((paste_back(before, veil, mask), paste_back(before, painted, mask)))
    return in_fours(groups)


def edit_rows(folder: Path, guidance: float) -> list[list[Image.Image]]:
    """Return pictures, each beside its edit."""
    orders = edit_orders(COUNT, SEED)
    pictures = make_edits(load_derived(folder, FluxKontextPipeline), orders, STEPS, guidance)
    return in_fours(
        [(order.drawings()[0], picture) for order, picture in zip(orders, pictures, strict=True)]
    )


def main() -> None:
    """Draw a sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("lora", "fill", "edit"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=1.0)
    options = parser.parse_args()
    if options.kind == "lora":
        rows = lora_rows(options.folder)
    elif options.kind == "fill":
        rows = fill_rows(options.folder, num_inference_steps=options.steps)
    else:
        rows = edit_rows(options.folder, options.guidance)
    compose(rows, options.picture)


if __name__ == "__main__":
    main()
