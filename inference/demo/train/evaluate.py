"""Scores: settings are chosen on one set of prompts and reported on another.

Run it as `python -m inference.demo.train.evaluate inference/demo/tiny-flux`.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from numpy.typing import NDArray
from PIL import Image

from inference.demo import STEPS, TRUE_CFG_SCALE
from inference.demo.captions import caption, plain_caption
from inference.demo.judge import judge
from inference.demo.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    combinations,
    draw,
    held_out,
    random_scene,
    settle,
)
from inference.demo.train.scoring import paint_by_size, shares
from inference.demo.train.vae import to_tensor

CHOOSING, REPORTING = 101, 202
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to draw: a prompt, what it says, a size and a seed."""

    prompt: str
    scene: Scene
    size: tuple[int, int]
    seed: int


def full_orders(count: int, seed: int, *, held: bool = True) -> list[Order]:
    """Return prompts that say everything, about combinations never trained on."""
    rng, orders = random.Random(seed), []
    for index in range(count):
        scene = random_scene(rng, held=held)
        text = plain_caption(scene) if index % 2 else caption(scene, rng)
        orders.append(Order(text, scene, SIZES[index % len(SIZES)], 1000 * seed + index))
    return orders


def short_orders(count: int, seed: int) -> list[Order]:
    """Return prompts such as "a red circle", over all colours and shapes in turn."""
    rng = random.Random(seed)
    pairs = [Scene(colour, shape) for colour in COLOURS for shape in SHAPES]
    rng.shuffle(pairs)
    return [
        Order(
            plain_caption(pairs[index % len(pairs)]),
            pairs[index % len(pairs)],
            SIZES[index % len(SIZES)],
            2000 * seed + index,
        )
        for index in range(count)
    ]


def partial_orders(count: int, seed: int) -> list[Order]:
    """Return prompts that say two to four of the five attributes, the shape among them."""
    rng, orders = random.Random(seed), []
    for index in range(count):
        scene = random_scene(rng, held=rng.random() < 0.5)
        others = ["colour", "background", "position", "size"]
        scene = scene.keep({"shape", *rng.sample(others, rng.randint(1, 3))})
        size = SIZES[index % len(SIZES)]
        orders.append(Order(caption(scene, rng), scene, size, 3000 * seed + index))
    return orders


def paint(
    pipe: FluxPipeline, orders: list[Order], steps: int, guidance: float
) -> list[Image.Image]:
    """Draw every order."""

    def arguments(batch: Sequence[Order]) -> dict[str, Any]:
        return {
            "prompt": [order.prompt for order in batch],
            "negative_prompt": [""] * len(batch) if guidance > 1 else None,
            "true_cfg_scale": guidance,
            "num_inference_steps": steps,
        }

    return paint_by_size(pipe, orders, arguments)


def score(orders: list[Order], pictures: list[Image.Image]) -> dict[str, float]:
    """Return the share of pictures with each named attribute right, and with all of them.

    Beside those: the mean overlap between the object and the nearest outline.
    """
    hits: dict[str, list[float]] = defaultdict(list)
    for order, image in zip(orders, pictures, strict=True):
        verdict = judge(image, order.scene)
        hits["overlap"].append(verdict.fit)
        for name, right in verdict.matches.items():
            hits[name].append(right)
        hits["all"].append(verdict.right)
    return shares(len(orders), hits)


def rate(pipe: FluxPipeline, orders: list[Order], steps: int, guidance: float) -> dict[str, float]:
    """Draw and score in one go."""
    return score(orders, paint(pipe, orders, steps, guidance))


def choose_guidance(pipe: FluxPipeline, steps: int, count: int) -> tuple[float, dict[str, float]]:
    """Return the guidance that gets most pictures all right, on prompts kept for choosing."""
    orders = full_orders(count, CHOOSING) + short_orders(count // 2, CHOOSING)
    shares = {str(g): rate(pipe, orders, steps, g)["all"] for g in GUIDANCES}
    print(f"[evaluate] {steps} steps, all right by guidance: {shares}", flush=True)
    return max(GUIDANCES, key=lambda g: shares[str(g)]), shares


def report(pipe: FluxPipeline, count: int, guidances: dict[int, float]) -> list[dict[str, Any]]:
    """Return a row of scores for every kind of prompt and setting."""
    kinds = {
        "everything said, combinations never trained": full_orders(count, REPORTING),
        "everything said, trained combinations": full_orders(count, REPORTING + 1, held=False),
        "colour and shape only": short_orders(count, REPORTING),
        "some attributes unsaid": partial_orders(count, REPORTING),
    }
    rows = []
    for index, (kind, orders) in enumerate(kinds.items()):
        for steps, guidance in guidances.items():
            if index and steps != STEPS:
                continue
            row = {"prompts": kind, "steps": steps, "true_cfg_scale": guidance}
            rows.append(row | rate(pipe, orders, steps, guidance))
            print(f"[evaluate] {rows[-1]}", flush=True)
    return rows


@torch.no_grad()
def through(vae: AutoencoderKL, drawing: NDArray[np.uint8]) -> Image.Image:
    """Encode and decode a drawing: no picture can be better than this."""
    batch = to_tensor([drawing.astype("float32")], vae.device)
    output = vae.decode(vae.encode(batch).latent_dist.mode()).sample
    levels = ((output[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return Image.fromarray(levels.to("cpu", torch.uint8).numpy())


def ceiling(vae: AutoencoderKL, orders: list[Order]) -> dict[str, float]:
    """Score drawings that only went through the autoencoder."""
    rng, pictures = random.Random(CHOOSING), []
    for order in orders:
        pictures.append(through(vae, draw(settle(order.scene, rng), *order.size, rng)))
    return score(orders, pictures)


def load(folder: Path, device: str = "cpu") -> FluxPipeline:
    """Load a pipeline folder as any user would."""
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def evaluate(folder: Path, count: int, device: str = "cpu") -> dict[str, Any]:
    """Choose settings, score them on other prompts, and write both beside the weights."""
    started = time.monotonic()
    pipe = load(folder, device)
    guidances, chosen = {}, {}
    for steps in (STEPS, 4):
        guidances[steps], chosen[str(steps)] = choose_guidance(pipe, steps, count // 2)
    guidances[16] = guidances[STEPS]
    scores = {
        "default": {"steps": STEPS, "true_cfg_scale": TRUE_CFG_SCALE},
        "best_true_cfg_scale": {str(steps): g for steps, g in guidances.items()},
        "choosing": chosen,
        "held_out_combinations": sum(map(held_out, combinations())),
        "autoencoder_alone": ceiling(pipe.vae, full_orders(count, REPORTING)),
        "scores": report(pipe, count, guidances),
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(f"[evaluate] {time.monotonic() - started:.0f} s", flush=True)
    return scores


def main() -> None:
    """Score a pipeline folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    evaluate(options.folder, options.prompts, options.device)


if __name__ == "__main__":
    main()
