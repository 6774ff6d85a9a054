"""The shipped demo model, loaded as any user would load it and judged by its pixels."""

import json
import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors import safe_open

from inference.demo import MAX_SEQUENCE_LENGTH, STEPS, TINY_FLUX, TRUE_CFG_SCALE
from inference.demo.judge import judge
from inference.demo.train.evaluate import Order, full_orders, short_orders

pytestmark = pytest.mark.timeout(120)

SEED = 77
BATCH = 6


@pytest.fixture(scope="module")
def pipe() -> Iterator[FluxPipeline]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = FluxPipeline.from_pretrained(TINY_FLUX)
    loaded.set_progress_bar_config(disable=True)
    yield loaded


def draw(pipe: FluxPipeline, orders: list[Order]) -> list[Image.Image]:
    """Draw orders of one size at the settings that the model card gives."""
    width, height = orders[0].size
    images: list[Image.Image] = pipe(
        [order.prompt for order in orders],
        negative_prompt=[""] * len(orders),
        true_cfg_scale=TRUE_CFG_SCALE,
        num_inference_steps=STEPS,
        width=width,
        height=height,
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        generator=[torch.Generator().manual_seed(order.seed) for order in orders],
    ).images
    return images


def shares(pipe: FluxPipeline, orders: list[Order]) -> dict[str, float]:
    """Return the share of pictures with each attribute right."""
    by_size = defaultdict(list)
    for order in orders:
        by_size[order.size].append(order)
    hits: dict[str, list[bool]] = defaultdict(list)
    for group in by_size.values():
        for order, image in zip(group, draw(pipe, group), strict=True):
            assert image.size == order.size
            verdict = judge(image, order.scene)
            for name, right in verdict.matches.items():
                hits[name].append(right)
            hits["all"].append(verdict.right)
    return {name: sum(found) / len(found) for name, found in hits.items()}


def test_draws_what_a_full_prompt_says(pipe: FluxPipeline) -> None:
    found = shares(pipe, full_orders(28, SEED))
    assert found["background"] >= 0.95
    assert found["colour"] >= 0.92
    assert found["shape"] >= 0.85
    assert found["position"] >= 0.92
    assert found["size"] >= 0.9


def test_draws_what_a_short_prompt_says(pipe: FluxPipeline) -> None:
    found = shares(pipe, short_orders(14, SEED))
    assert found["colour"] >= 0.92
    assert found["shape"] >= 0.85
    assert found["all"] >= 0.85


def test_every_part_loads_in_one_precision_unasked(pipe: FluxPipeline) -> None:
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}


def test_same_seed_same_pixels_and_another_seed_another_picture(pipe: FluxPipeline) -> None:
    order = short_orders(1, SEED)[0]
    other = Order(order.prompt, order.scene, order.size, order.seed + 1)
    first, second, third = (np.asarray(draw(pipe, [o])[0]) for o in (order, order, other))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_folder_holds_safetensors_only_and_no_path_of_the_machine_that_made_it() -> None:
    files = [path for path in TINY_FLUX.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in files) < 12_000_000
    for path in files:
        if path.suffix == ".json":
            assert "_name_or_path" not in json.loads(path.read_text())
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert all(torch.isfinite(tensors.get_tensor(k)).all() for k in tensors.keys())  # noqa: SIM118


def test_scores_are_beside_the_weights_and_meant_for_the_default_settings() -> None:
    scores = json.loads((TINY_FLUX / "scores.json").read_text())
    assert scores["default"] == {"steps": STEPS, "true_cfg_scale": TRUE_CFG_SCALE}
    assert any(row["steps"] == STEPS and row["n"] >= 200 for row in scores["scores"])
