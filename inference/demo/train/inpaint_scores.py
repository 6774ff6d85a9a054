"""Scores of inpainting: an object under a mask is replaced, the rest kept.

Run it as `python -m inference.demo.train.inpaint_scores inference/demo/tiny-flux-fill`, or with the
generator's folder to score FluxInpaintPipeline, which needs no weights of its own.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import FluxFillPipeline, FluxInpaintPipeline
from PIL import Image

from inference.demo import STEPS
from inference.demo.derived import base_of, load_derived
from inference.demo.inpaint import Replacement, paste_back, replacements
from inference.demo.judge import judge, kept
from inference.demo.train.scoring import paint_by_size, shares

CHOOSING, REPORTING = 707, 808
STEP_CHOICES = (8, 12, 16)
GUIDANCES = (1.0, 2.0, 3.0)


def replace_objects(
    pipe: Any, orders: Sequence[Replacement], **settings: float
) -> list[Image.Image]:
    """Paint every replacement.

    Nothing is pasted back: the pictures are as the pipeline returns them.
    """

    def arguments(batch: Sequence[Replacement]) -> dict[str, Any]:
        return {
            "prompt": [order.prompt for order in batch],
            "image": [order.drawings()[0] for order in batch],
            "mask_image": [Image.fromarray(order.mask()) for order in batch],
            **settings,
        }

    return paint_by_size(pipe, orders, arguments)


def score_replacements(
    orders: Sequence[Replacement], pictures: list[Image.Image]
) -> dict[str, float]:
    """Return the share of pictures with colour, shape and background right, and all three.

    Judged after pasting the original back outside the mask, as a server does; `kept` is the
    share of pixels outside the mask that look as before without that. `short` and `full` are the
    shares of all right for prompts that say colour and shape only, and for those that say more.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for order, picture in zip(orders, pictures, strict=True):
        before, _ = order.drawings()
        asked = order.after.keep({"colour", "shape", "background"})
        verdict = judge(paste_back(before, picture, order.mask()), asked)
        for name, right in verdict.matches.items():
            found[name].append(right)
        found["all"].append(verdict.right)
        found["full" if "background" in order.prompt else "short"].append(verdict.right)
        found["kept"].append(kept(before, picture, ~order.mask()))
    return shares(len(orders), found)


def rate(pipe: Any, orders: Sequence[Replacement], settings: dict[str, Any]) -> dict[str, Any]:
    """Paint and score in one go; print and return the row."""
    row = settings | score_replacements(orders, replace_objects(pipe, orders, **settings))
    row = {key: value for key, value in row.items() if key != "negative_prompt"}
    print(f"[inpaint] {row}", flush=True)
    return row


def evaluate_inpaint(folder: Path, count: int) -> dict[str, Any]:
    """Choose settings on one set of replacements, score them on another."""
    whole = base_of(folder) == folder
    pipe = load_derived(folder, FluxInpaintPipeline if whole else FluxFillPipeline)
    choices: list[dict[str, Any]]
    if whole:
        fixed = {"num_inference_steps": STEPS, "strength": 1.0, "negative_prompt": ""}
        choices = [fixed | {"true_cfg_scale": guidance} for guidance in GUIDANCES]
    else:
        # FluxFillPipeline has no true guidance.
        choices = [{"num_inference_steps": steps} for steps in STEP_CHOICES]
    chosen = [rate(pipe, replacements(count // 2, CHOOSING), choice) for choice in choices]
    best = choices[max(range(len(choices)), key=lambda index: chosen[index]["all"])]
    rows = []
    for held in (True, False):
        kind = "outcomes never trained" if held else "trained outcomes"
        row = rate(pipe, replacements(count, REPORTING + (not held), held=held), best)
        rows.append({"replacements": kind} | row)
    scores = {"pipeline": type(pipe).__name__, "choosing": chosen, "scores": rows}
    if not whole:
        (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def main() -> None:
    """Score an inpaint model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--replacements", type=int, default=200)
    options = parser.parse_args()
    evaluate_inpaint(options.folder, options.replacements)


if __name__ == "__main__":
    main()
