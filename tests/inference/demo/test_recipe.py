"""The stages that derive models, end to end at a few steps: what they write, and going on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxFillPipeline, FluxKontextPipeline, FluxPipeline

from inference.demo import TINY_FLUX
from inference.demo.derived import base_of, load_derived
from inference.demo.train import lora_scores
from inference.demo.train.common import Budget, Worker
from inference.demo.train.derive import STEPS, derive
from inference.demo.train.edit import EDIT, encode_cubes
from inference.demo.train.finetune import Drawings, finetune
from inference.demo.train.lora import FILE

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]


def run(stage: str, folder: Path, *, resume: bool = False) -> Path:
    """Derive a model from the shipped generator in one step; return where it was written."""
    base = folder / "tiny-flux"
    if not base.exists():
        base.symlink_to(TINY_FLUX)
    derive(
        stage,
        base,
        folder / "work",
        workers=1,
        device="cpu",
        scale=1 / STEPS[stage],
        minutes=None,
        seed=0,
        resume=resume,
        count=3,
    )
    (out,) = (path for path in folder.glob("tiny-flux-*"))
    assert base_of(out) == TINY_FLUX.resolve()
    assert (out / "scores.json").is_file()
    return out


def test_an_edit_model_is_written_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = run("edit", tmp_path)
    first = load_derived(out, FluxKontextPipeline).transformer.state_dict()
    generator = load_derived(TINY_FLUX, FluxPipeline).transformer.state_dict()
    assert first.keys() == generator.keys()
    assert any(not torch.equal(first[key], generator[key]) for key in first)
    run("edit", tmp_path, resume=True)
    second = load_derived(out, FluxKontextPipeline).transformer.state_dict()
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert json.loads((tmp_path / "work/edit/cost.json").read_text())["edit"]["steps"] == 2


def test_every_leg_and_every_worker_sees_drawings_of_its_own(tmp_path: Path) -> None:
    seeds: list[int] = []

    def encode(vae: AutoencoderKL, count: int, seed: int) -> Mapping[tuple[int, int], Drawings]:
        seeds.append(seed)
        return encode_cubes(vae, count, seed)

    recipe, device = replace(EDIT, encode=encode), torch.device("cpu")
    for rank, resume in ((0, False), (0, True), (3, True)):
        worker = Worker(rank, 1, device)
        finetune(worker, recipe, TINY_FLUX, tmp_path, Budget(1), 7, 8, resume)
    assert seeds == [7, 8, 309]


def test_a_fill_model_is_written(tmp_path: Path) -> None:
    pipe = load_derived(run("fill", tmp_path), FluxFillPipeline)
    assert pipe.transformer.config.in_channels == 384
    assert pipe.transformer.x_embedder.weight[:, 64:].abs().max() > 0


def test_a_lora_is_written_that_the_generator_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_scores, "STRENGTHS", (0.0, 1.0))
    out = run("lora", tmp_path)
    assert (out / FILE).stat().st_size < 500_000
    scores = json.loads((out / "scores.json").read_text())
    assert [row["strength"] for row in scores["scores"]] == [0.0, 1.0]
