"""Scores of the edit model: settings are chosen on one set of edits and reported on another.

Run it as `python -m inference.demo.train.edit_scores inference/demo/tiny-flux-kontext`.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import FluxKontextPipeline
from PIL import Image

from inference.demo import STEPS
from inference.demo.derived import load_derived
from inference.demo.edits import KINDS, Edit, random_edit
from inference.demo.judge import judge, kept
from inference.demo.scenes import SIZES
from inference.demo.train.scoring import paint_by_size, shares

CHOOSING, REPORTING = 303, 404
GUIDANCES = (1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class EditOrder:
    """One edit to make: of which drawing, how large, and with which seed."""

    edit: Edit
    size: tuple[int, int]
    seed: int

    def drawings(self) -> tuple[Image.Image, Image.Image]:
        """Return the picture to edit and the edited picture as it should be."""
        before, after = self.edit.drawings(*self.size, self.seed)
        return Image.fromarray(before), Image.fromarray(after)


def edit_orders(count: int, seed: int, *, held: bool = True) -> list[EditOrder]:
    """Return edits of all kinds in turn, whose outcomes were never trained on."""
    rng = random.Random(seed)
    return [
        EditOrder(
            random_edit(KINDS[index % len(KINDS)], rng, held=held),
            SIZES[index % len(SIZES)],
            1000 * seed + index,
        )
        for index in range(count)
    ]


def make_edits(
    pipe: FluxKontextPipeline, orders: Sequence[EditOrder], steps: int, guidance: float
) -> list[Image.Image]:
    """Make every edit."""

    def arguments(batch: Sequence[EditOrder]) -> dict[str, Any]:
        width, height = batch[0].size
        return {
            "image": [order.drawings()[0] for order in batch],
            "prompt": [order.edit.instruction for order in batch],
            "negative_prompt": [""] * len(batch) if guidance > 1 else None,
            "true_cfg_scale": guidance,
            "num_inference_steps": steps,
            # The pipeline would otherwise scale both pictures to about a megapixel.
            "max_area": width * height,
            "_auto_resize": False,
        }

    return paint_by_size(pipe, orders, arguments)


def score_edits(orders: Sequence[EditOrder], pictures: list[Image.Image]) -> dict[str, float]:
    """Return the share of edits that succeed, by kind and of all.

    Beside those, the share of pixels that should stay and look as before, and of those that
    should change and look as drawn.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for order, picture in zip(orders, pictures, strict=True):
        before, after = order.drawings()
        changes = (np.asarray(before) != np.asarray(after)).any(-1)
        right = judge(picture, order.edit.after).right
        found["success"].append(right)
        found[order.edit.kind].append(right)
        found["kept"].append(kept(before, picture, ~changes))
        found["changed"].append(kept(after, picture, changes))
    return shares(len(orders), found)


def rate_edits(
    pipe: FluxKontextPipeline, orders: Sequence[EditOrder], steps: int, guidance: float
) -> dict[str, float]:
    """Make and score edits in one go."""
    return score_edits(orders, make_edits(pipe, orders, steps, guidance))


def evaluate_edits(folder: Path, count: int) -> dict[str, Any]:
    """Choose the guidance, score it on other edits, and write both beside the weights."""
    pipe = load_derived(folder, FluxKontextPipeline)
    chosen = {}
    for guidance in GUIDANCES:
        chosen[str(guidance)] = rate_edits(pipe, edit_orders(count // 3, CHOOSING), STEPS, guidance)
        print(f"[edit] choosing, guidance {guidance}: {chosen[str(guidance)]}", flush=True)
    best = max(GUIDANCES, key=lambda g: (chosen[str(g)]["success"], chosen[str(g)]["kept"]))
    rows = []
    for held in (True, False):
        kind = "outcomes never trained" if held else "trained outcomes"
        orders = edit_orders(count if held else count // 2, REPORTING + (not held), held=held)
        row = {"edits": kind, "steps": STEPS, "true_cfg_scale": best}
        rows.append(row | rate_edits(pipe, orders, STEPS, best))
        print(f"[edit] {rows[-1]}", flush=True)
    scores = {"choosing": chosen, "scores": rows}
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def main() -> None:
    """Score an edit model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--edits", type=int, default=200)
    options = parser.parse_args()
    evaluate_edits(options.folder, options.edits)


if __name__ == "__main__":
    main()
