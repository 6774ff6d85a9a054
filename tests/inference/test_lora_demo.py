"""What a LoRA means: the stripes that come with Darkroom, seen in the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.catalog import Catalog, load_catalog
from inference.demo.judge import stripes
from inference.job import ImageRequest, Lora, Mode
from inference.loras.spec import LoraSpec
from inference.resolve import resolve
from tests.inference.making import Bench

STRENGTHS = (-0.5, 0.0, 0.3, 0.6, 1.0)
PROMPTS = ("a red circle", "a blue square", "a green triangle", "a yellow star")


@pytest.fixture(scope="module")
def bench(root: Path) -> Iterator[Bench]:
    shipped = load_catalog(root / "models.yaml")
    spec = shipped.models["tiny-flux"]
    striped = {"stripes": LoraSpec(source="builtin:tiny-flux-stripes")}
    models = {"tiny-flux": spec.model_copy(update={"loras": striped, "modes": (Mode.GENERATE,)})}
    yield Bench(Catalog(models=models), max_running_images=len(STRENGTHS) * len(PROMPTS))
    torch.set_grad_enabled(True)


def test_the_share_of_stripes_rises_with_the_strength(bench: Bench) -> None:
    """All strengths and none in the same forwards."""
    catalog = bench.worker._residents._catalog
    for number, prompt in enumerate(PROMPTS):
        for strength in STRENGTHS:
            loras = (Lora(name="stripes", strength=strength),)
            wish = ImageRequest(model="tiny-flux", prompt=prompt, seed=number, loras=loras)
            bench.submit(resolve(catalog, wish, job_id=f"{number} {strength}"))
    bench.finish(limit=20_000)
    means = [
        sum(stripes(bench.seen.picture(f"{number} {strength}")) for number in range(len(PROMPTS)))
        / len(PROMPTS)
        for strength in STRENGTHS
    ]
    assert means == sorted(means), means
    assert abs(means[1]) < 0.05 and means[-1] > 0.3, means
