"""LoRA: as diffusers alone, several in one forward as alone, and the base as if there were none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.catalog import Catalog
from inference.coalesce import Carrier, Rendezvous, forward
from inference.errors import PipelineFailed
from inference.job import Job, Lora
from inference.loading import load_pipelines
from inference.loras.spec import LoraSpec
from inference.model import LoadedModel, load_model
from inference.pixels import Pictures
from inference.prompts import PromptCache
from tests.inference.loras import alone, far, layers_of, random_lora, saved, together
from tests.inference.making import job

DENOISER = {"flux": "transformer", "sdxl": "unet"}
FAMILIES = sorted(DENOISER)


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def files(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """By family: two LoRAs of the denoiser of different ranks, a partial one, one that encodes."""
    folder = tmp_path_factory.mktemp("loras")
    made: dict[str, dict[str, Path]] = {}
    for family, denoiser in DENOISER.items():
        pipe = load_pipelines(catalog.models[family], "cpu")[job().mode]
        module = getattr(pipe, denoiser)
        half = set(layers_of(module)[::3])
        words = random_lora(pipe.text_encoder, "text_encoder", 3, pick=lambda path: "_proj" in path)
        weights = {
            "l0": random_lora(module, denoiser, 0, rank=4),
            "l1": random_lora(module, denoiser, 1, rank=2),
            "part": random_lora(module, denoiser, 2, pick=half.__contains__),
            "words": words,
        }
        made[family] = {
            name: saved(one, folder / f"{family}-{name}.safetensors")
            for name, one in weights.items()
        }
    return made


def served(catalog: Catalog, family: str, files: dict[str, Path]) -> LoadedModel:
    listed = {name: LoraSpec(source=str(path)) for name, path in files.items()}
    spec = catalog.models[family].model_copy(update={"loras": listed})
    return load_model(spec, "cpu", Rendezvous(), PromptCache(1 << 20), preview_side_px=0)


@pytest.fixture(scope="module")
def models(catalog: Catalog, files: dict[str, dict[str, Path]]) -> dict[str, LoadedModel]:
    return {family: served(catalog, family, files[family]) for family in FAMILIES}


def asks(family: str, *loras: tuple[str, float], **changes: Any) -> Job:
    named = tuple(Lora(name=name, strength=strength) for name, strength in loras)
    return job(model=family, loras=named, **changes)


def by_diffusers(catalog: Catalog, files: dict[str, Path], wanted: Job) -> Any:
    """The picture as diffusers makes it with its own LoRA layers, in a fresh pipeline."""
    spec = catalog.models[wanted.model]
    pipe = load_pipelines(spec, "cpu")[wanted.mode]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft, of the second adapter of a model
        for lora in wanted.loras:
            pipe.load_lora_weights(str(files[lora.name]), adapter_name=lora.name)
    if wanted.loras:
        names = [lora.name for lora in wanted.loras]
        pipe.set_adapters(names, [lora.strength for lora in wanted.loras])
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, Pictures())
    noise = torch.Generator("cpu").manual_seed(wanted.seeds[0])
    return pipe(**arguments, generator=noise, output_type="np").images[0]


MIXES: list[tuple[tuple[str, float], ...]] = [
    (),
    (("l0", 0.5),),
    (("l0", 1.0),),
    (("l1", 0.8),),
    (("l0", 0.3), ("l1", -0.5)),
    (("part", -1.0),),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mix", [MIXES[2], MIXES[4], MIXES[5], (("words", 0.7), ("l0", 0.2))])
def test_alone_it_is_what_diffusers_makes(
    catalog: Catalog, models: Any, files: Any, family: str, mix: Any
) -> None:
    wanted = asks(family, *mix)
    expected = by_diffusers(catalog, files[family], wanted)
    assert far(alone(models[family], wanted), expected) <= 1e-5
    assert far(by_diffusers(catalog, files[family], asks(family)), expected) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_without_and_at_zero_it_is_the_base_to_the_bit(
    catalog: Catalog, models: Any, files: Any, family: str
) -> None:
    base = by_diffusers(catalog, files[family], asks(family))
    alone(models[family], asks(family, ("l0", 1.0)))
    for wanted in (asks(family), asks(family, ("l0", 0.0)), asks(family, ("l0", 0), ("words", 0))):
        assert alone(models[family], wanted).tobytes() == base.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_many_in_one_forward_are_as_alone(models: Any, family: str) -> None:
    jobs = [
        asks(family, *mix, seeds=(number,), guidance_scale=1.0 + number)
        for number, mix in enumerate(MIXES)
    ]
    made, merged = together(models[family], jobs)
    assert set(merged) == {len(jobs)}, "not all were in one forward, so nothing was shown"
    for wanted, picture in zip(jobs, made, strict=True):
        assert far(picture, alone(models[family], wanted)) <= 1e-5
    assert far(made[1], alone(models[family], asks(family, seeds=(1,), guidance_scale=2.0))) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbours_lora_changes_nothing_for_rows_without_one(models: Any, family: str) -> None:
    """To the bit: the same company, with and without a LoRA in it."""
    plain = [asks(family, seeds=(1,)), asks(family, seeds=(2,))]
    beside = [plain[0], asks(family, ("l0", 3.0), seeds=(2,))]
    without, with_it = together(models[family], plain)[0], together(models[family], beside)[0]
    assert without[0].tobytes() == with_it[0].tobytes()
    assert far(without[1], with_it[1]) > 0.01


def test_a_neighbours_overflow_stays_its_own(models: Any) -> None:
    model = models["flux"]
    mix = model.loras.mix((Lora(name="l0", strength=1.0),))
    pairs = mix.parts[0][0].layers["transformer"]
    before = {path: down.clone() for path, (down, _) in pairs.items()}
    wanted = asks("flux", seeds=(1,))
    expected = together(model, [wanted, asks("flux", seeds=(2,))])[0][0]
    try:
        for down, _ in pairs.values():
            down.fill_(3e38)
        model.loras.rows["transformer"].forget([mix.parts[0][0]])
        overflowing = asks("flux", ("l0", 1.0), seeds=(2,))
        made = together(model, [wanted, overflowing], may_fail=True)[0][0]
        with pytest.raises(PipelineFailed, match="NaN"):
            alone(model, overflowing)
    finally:
        for path, (down, _) in pairs.items():
            down.copy_(before[path])
        model.loras.rows["transformer"].forget([mix.parts[0][0]])
    assert made.tobytes() == expected.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_moves_the_picture_monotonically(models: Any, family: str) -> None:
    base = alone(models[family], asks(family, num_inference_steps=2))
    moved = []
    for strength in (0.0, 0.05, 0.1, 0.2, 0.4):
        wanted = asks(family, ("l0", strength), num_inference_steps=2)
        moved.append(float(abs(alone(models[family], wanted) - base).mean()))
    assert moved[0] == 0
    assert moved == sorted(moved) and len(set(moved)) == len(moved)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_negative_strength_goes_the_other_way(models: Any, family: str) -> None:
    steps = {"num_inference_steps": 2}
    base = alone(models[family], asks(family, **steps))
    there = alone(models[family], asks(family, ("l0", 0.005), **steps)) - base
    back = alone(models[family], asks(family, ("l0", -0.005), **steps)) - base
    assert abs(there + back).mean() < 0.2 * abs(there).mean()


def test_a_text_encoders_lora_is_part_of_what_remembers_prompts(models: Any) -> None:
    model = models["sdxl"]

    def misses(*loras: tuple[str, float]) -> int:
        before = model.prompts.misses
        wanted = asks("sdxl", *loras, num_inference_steps=1)
        carrier = Carrier(lambda: model.call(wanted, 0, Pictures())[1]())
        carrier.advance()
        while carrier.call is not None:
            carrier.advance(forward([carrier.call])[0])
        assert carrier.error is None
        return int(model.prompts.misses - before)

    assert misses() == 1
    assert misses() == 0
    assert misses(("l0", 1.0)) == 0, "a LoRA of the denoiser alone encodes nothing else"
    assert misses(("words", 0.5)) == 1
    assert misses(("words", 0.5)) == 0
    assert misses(("words", 0.6)) == 1
    assert misses(("words", 0.0)) == 0
