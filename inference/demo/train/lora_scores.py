"""Scores of the style LoRA: how striped objects are at each strength, and what else changes.

Run it as `python -m inference.demo.train.lora_scores inference/demo/tiny-flux-stripes`.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image

from inference.demo import STEPS, TRUE_CFG_SCALE
from inference.demo.derived import base_of
from inference.demo.judge import judge, stripes
from inference.demo.scenes import draw, settle
from inference.demo.train.evaluate import Order, full_orders, load, paint, short_orders, through
from inference.demo.train.lora import FILE

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
REPORTING = 606


def lora_orders(count: int, seed: int) -> list[Order]:
    """Return prompts half of which say only colour and shape, the others everything."""
    return short_orders(count // 2, seed) + full_orders(count - count // 2, seed)


def paint_at(pipe: FluxPipeline, orders: list[Order], strength: float) -> list[Image.Image]:
    """Draw orders with the LoRA at a strength."""
    pipe.set_adapters(["stripes"], [strength])
    return paint(pipe, orders, STEPS, TRUE_CFG_SCALE)


def load_striped(folder: Path) -> FluxPipeline:
    """Load the generator with the LoRA in it, as the adapter "stripes"."""
    pipe = load(base_of(folder))
    pipe.load_lora_weights(folder, weight_name=FILE, adapter_name="stripes")
    return pipe


def score_lora(orders: list[Order], rows: dict[float, list[Image.Image]]) -> list[dict[str, Any]]:
    """Return a row for each strength: style share, its rise, and what of the prompt is right."""
    scores: list[dict[str, Any]] = []
    last: list[float] = []
    for strength, pictures in rows.items():
        shares = [stripes(picture) for picture in pictures]
        row: dict[str, Any] = {"strength": strength, "n": len(orders)}
        row["style_share"] = round(sum(shares) / len(shares), 3)
        if last:
            rising = sum(new > old for new, old in zip(shares, last, strict=True))
            row["rising"] = round(rising / len(shares), 3)
        verdicts = [judge(p, o.scene) for p, o in zip(pictures, orders, strict=True)]
        for name in ("shape", "background", "position"):
            marks = [v.matches[name] for v in verdicts if name in v.matches]
            row[name] = round(sum(marks) / len(marks), 3)
        scores.append(row)
        last = shares
        print(f"[lora] {row}", flush=True)
    return scores


def ceiling(vae: AutoencoderKL, orders: list[Order]) -> float:
    """Return the mean style share of striped drawings that only went through the autoencoder."""
    rng = random.Random(REPORTING)
    drawings = [draw(settle(o.scene, rng), *o.size, rng, striped=True) for o in orders]
    return round(sum(stripes(through(vae, drawn)) for drawn in drawings) / len(orders), 3)


def evaluate_lora(folder: Path, count: int) -> list[dict[str, Any]]:
    """Score the LoRA at every strength and write that beside its weights."""
    pipe, orders = load_striped(folder), lora_orders(count, REPORTING)
    rows = {strength: paint_at(pipe, orders, strength) for strength in STRENGTHS}
    scores = score_lora(orders, rows)
    kept = {"autoencoder_alone": ceiling(pipe.vae, orders), "scores": scores}
    (folder / "scores.json").write_text(json.dumps(kept, indent=2) + "\n")
    return scores


def main() -> None:
    """Score a LoRA."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    options = parser.parse_args()
    evaluate_lora(options.folder, options.prompts)


if __name__ == "__main__":
    main()
