"""LoRA in one forward, for the families beyond those that test_lora looks at closely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference import skeletons
from inference.coalesce import Rendezvous
from inference.job import Job, Lora
from inference.loras.spec import LoraSpec
from inference.model import load_model
from inference.prompts import PromptCache
from inference.skeletons.others import qwen_transformer
from tests.inference.loras import alone, far, random_lora, saved, together
from tests.inference.making import catalog_over, job


def folding_qwen() -> Any:
    """As Qwen-Image-Edit-2511: the modulations are computed for each row and for time 0 below."""
    pipe = skeletons.tiny_qwen()
    pipe.register_modules(transformer=qwen_transformer(zero_cond_t=True))
    return pipe


# The skeleton, what models.yaml says, and a word in the paths of the layers that LoRAs change.
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "flux2": (skeletons.tiny_flux2, {"family": "flux2"}, ""),
    "klein": (skeletons.tiny_klein, {"family": "flux2-klein", "max_sequence_length": 64}, ""),
    "kontext": (skeletons.tiny_kontext, {"family": "flux-kontext", "max_sequence_length": 16}, ""),
    "sd3": (skeletons.tiny_sd3, {"family": "sd3", "max_sequence_length": 16}, ""),
    "qwen": (skeletons.tiny_qwen, {"family": "qwen-image"}, ""),
    "qwen-2511": (folding_qwen, {"family": "qwen-image"}, ""),
    "sd": (
        skeletons.tiny_sd,
        {"family": "generic", "pipelines": {"generate": "StableDiffusionPipeline"}},
        "",
    ),
    "z-image": (
        skeletons.tiny_zimage,
        {"family": "z-image", "max_sequence_length": 64},
        "layers.",
    ),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", CASES)
def test_different_strengths_share_a_forward_and_are_as_alone(name: str, tmp_path: Path) -> None:
    make, entry, word = CASES[name]
    pipe = make()
    skeletons.save(pipe, tmp_path / name)
    spec = catalog_over({name: tmp_path / name}, {name: entry}).models[name]
    component = "unet" if hasattr(pipe, "unet") else "transformer"
    denoiser = getattr(pipe, component)
    loras = {
        key: LoraSpec(
            source=str(
                saved(
                    random_lora(denoiser, component, seed, pick=lambda path: word in path),
                    tmp_path / f"{key}.safetensors",
                )
            )
        )
        for seed, key in enumerate("ab")
    }
    spec = spec.model_copy(update={"loras": loras})
    model = load_model(spec, "cpu", Rendezvous(), PromptCache(0), preview_side_px=0)

    def asks(seed: int, *mix: tuple[str, float]) -> Job:
        named = tuple(Lora(name=key, strength=strength) for key, strength in mix)
        wish = {"model": name, "negative_prompt": "blur", "num_inference_steps": 2}
        return job(seeds=(seed,), loras=named, **wish)

    jobs = [asks(1), asks(2, ("a", 0.5)), asks(3, ("b", -1.0)), asks(4, ("a", 1.0), ("b", 0.3))]
    made, merged = together(model, jobs)
    assert set(merged) == {len(jobs)}
    for wanted, picture in zip(jobs, made, strict=True):
        assert far(picture, alone(model, wanted)) <= 1e-5
    assert far(made[1], alone(model, asks(2))) > 0.01
