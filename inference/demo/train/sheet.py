"""A contact sheet: what the model draws, unpicked.

Run it as `python -m inference.demo.train.sheet inference/demo/tiny-flux docs/demo/tiny-flux.png`.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageOps

from inference.demo import STEPS, TRUE_CFG_SCALE
from inference.demo.captions import plain_caption
from inference.demo.scenes import COLOURS, SHAPES, SIZES, Scene, random_scene
from inference.demo.train.evaluate import Order, load, paint

CELL, GAP = 144, 6
SEED = 7


def orders() -> list[list[Order]]:
    """Return a row for each shape: three short prompts, then five that say everything."""
    rng, rows = random.Random(SEED), []
    colours = list(COLOURS)
    for row, shape in enumerate(SHAPES):
        scenes = [Scene(colours[(3 * row + 4 * i) % len(colours)], shape) for i in range(3)]
        while len(scenes) < 8:
            scene = random_scene(rng, held=True)
            scenes += [scene] if scene.shape == shape else []
        sizes = [SIZES[0]] * 3 + [SIZES[(row + i) % len(SIZES)] for i in range(5)]
        rows.append(
            [
                Order(plain_caption(scene), scene, size, 100 * row + column)
                for column, (scene, size) in enumerate(zip(scenes, sizes, strict=True))
            ]
        )
    return rows


def compose(rows: list[list[Image.Image]], path: Path) -> None:
    """Write rows of pictures as one sheet."""
    step = CELL + GAP
    sheet = Image.new(
        "RGB", (max(map(len, rows)) * step + GAP, len(rows) * step + GAP), (60, 60, 60)
    )
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            left, top = (CELL - image.width) // 2, (CELL - image.height) // 2
            sheet.paste(image, (GAP + x * step + left, GAP + y * step + top))
    # Two bits less for every channel are invisible and halve the file.
    ImageOps.posterize(sheet, 6).save(path, optimize=True)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    pipe = load(options.folder)
    rows = [paint(pipe, row, STEPS, TRUE_CFG_SCALE) for row in orders()]
    compose(rows, options.picture)


if __name__ == "__main__":
    main()
