"""Samplers by name: each is the scheduler it says, one picture's alone, and refused elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from inference import coalesce, skeletons, steps
from inference.catalog import Catalog
from inference.errors import ModelFailed, Unsupported
from inference.job import ImageRequest, Job, Mode
from inference.loading import load_pipelines
from inference.pixels import decoded
from inference.resolve import resolve
from inference.samplers import SAMPLERS
from inference.schedulers import scheduler_for
from tests.inference.making import PICTURES, Bench, catalog_over, difference, job

# What people mean by these names, written down a second time.
MEANT: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
}
ENTRY = {
    "family": "sdxl",
    "profiles": {"quick": {"sampler": "lcm", "num_inference_steps": 4}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("samplers") / "sdxl"
    skeletons.save(skeletons.tiny_sdxl(), folder)
    return catalog_over({"sdxl": folder}, {"sdxl": ENTRY})


@pytest.fixture(scope="module")
def bench(served: Catalog) -> Iterator[Bench]:
    yield Bench(served)
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def pipes(served: Catalog, bench: Bench) -> dict[Mode, Any]:
    return dict(load_pipelines(served.models["sdxl"], "cpu"))


def made(bench: Bench, *wanted: Job, apart: int = 0) -> list[Any]:
    bench.seen.events.clear()
    for one in wanted:
        bench.submit(one)
        bench.ticks(apart)
    bench.finish()
    return [bench.seen.picture(one.id) for one in wanted]


def alone(served: Catalog, pipe: Any, wanted: Job, scheduler: Any) -> Any:
    """One ordinary call of diffusers' with a scheduler of its own."""
    spec = served.models["sdxl"]
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, decoded(wanted, PICTURES))
    pipe.scheduler = scheduler
    generator = torch.Generator("cpu").manual_seed(wanted.seeds[0])
    return pipe(**arguments, generator=generator).images[0]


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("mode", [Mode.GENERATE, Mode.IMG2IMG])
def test_alone_it_is_the_plain_call_with_that_scheduler(
    bench: Bench, served: Catalog, pipes: dict[Mode, Any], name: str, mode: Mode
) -> None:
    kind, changes = MEANT[name]
    own = diffusers.EulerDiscreteScheduler.from_pretrained(
        served.models["sdxl"].source, subfolder="scheduler"
    )
    scheduler = getattr(diffusers, kind).from_config(own.config, **changes)
    wanted = job(model="sdxl", mode=mode, sampler=name, num_inference_steps=5)
    expected = alone(served, pipes[mode], wanted, scheduler)
    assert made(bench, wanted)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", [Mode.IMG2IMG, Mode.INPAINT])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_works_where_a_picture_is_given(bench: Bench, name: str, mode: Mode) -> None:
    wanted = job(model="sdxl", mode=mode, sampler=name, num_inference_steps=3)
    assert made(bench, wanted)[0].size == (64, 64)


def test_without_one_the_checkpoints_own_is_used(
    bench: Bench, served: Catalog, pipes: dict[Mode, Any]
) -> None:
    own = diffusers.EulerDiscreteScheduler.from_pretrained(
        served.models["sdxl"].source, subfolder="scheduler"
    )
    wanted = job(model="sdxl")
    named = made(bench, job("n", "sdxl", sampler="heun"))[0]
    unnamed = made(bench, wanted)[0]
    assert unnamed.tobytes() == alone(served, pipes[Mode.GENERATE], wanted, own).tobytes()
    assert difference(named, unnamed) > 1


def test_different_samplers_share_forwards_and_stay_as_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counted(calls: Any) -> Any:
        rows.append(len(calls))
        return coalesce.forward(calls)

    wanted = [
        job(name or "own", "sdxl", sampler=name, num_inference_steps=steps, seeds=(seed,))
        for seed, (name, steps) in enumerate(
            [("euler_a", 6), ("ddim", 7), (None, 5), ("dpmpp_2m_karras", 6), ("heun", 4)]
        )
    ]
    expected = [made(bench, one)[0] for one in wanted]
    monkeypatch.setattr(steps, "forward", counted)
    for attached in bench.worker._residents.get("sdxl").attached:
        monkeypatch.setattr(attached, "budget_tokens", 1 << 20)
    mixed = made(bench, *wanted, apart=2)
    # whole timesteps of some, fractions of others
    assert max(rows) >= 4
    assert max(difference(*pair) for pair in zip(mixed, expected, strict=True)) <= 1


def test_nothing_of_the_checkpoints_own_configuration_is_lost_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Predicting v from rescaled betas, as some checkpoints do, goes on with any sampler."""
    own = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    diffusers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        for name in SAMPLERS:
            config = scheduler_for(own, name).config
            assert (config["prediction_type"], config["beta_schedule"]) == (
                "v_prediction",
                "scaled_linear",
            ), name
    assert caplog.records == []


def test_two_pictures_never_share_one() -> None:
    own = diffusers.EulerDiscreteScheduler()
    for name in (None, "euler"):
        one, other = scheduler_for(own, name), scheduler_for(own, name)
        one.set_timesteps(3)
        assert len(other.timesteps) != 3 and len(own.timesteps) != 3


class TestTheDoor:
    def job_of(self, catalog: Catalog, **wish: Any) -> Job:
        return resolve(catalog, ImageRequest(model="sdxl", prompt="a fox", **wish), job_id="j")

    def test_what_is_asked_wins_over_the_profile_and_that_over_the_default(self) -> None:
        entry = ENTRY | {"defaults": {"sampler": "unipc"}}
        catalog = catalog_over({"sdxl": Path("nowhere")}, {"sdxl": entry})
        assert self.job_of(catalog).sampler == "unipc"
        assert self.job_of(catalog, profile="quick").sampler == "lcm"
        assert self.job_of(catalog, profile="quick", sampler="heun").sampler == "heun"

    def test_left_open_it_is_the_checkpoints(self, served: Catalog) -> None:
        assert self.job_of(served).sampler is None

    @pytest.mark.parametrize("sampler", ["Euler", "", "lms", "x" * 5000])
    def test_an_unknown_one_is_refused_with_those_there_are(
        self, served: Catalog, sampler: str
    ) -> None:
        with pytest.raises(Unsupported, match="dpmpp_2m_karras") as caught:
            self.job_of(served, sampler=sampler)
        assert caught.value.field == "sampler"
        assert len(str(caught.value)) < 500

    def test_a_model_may_offer_fewer(self) -> None:
        entry = {"family": "sdxl", "samplers": ["euler_a"]}
        catalog = catalog_over({"sdxl": Path("nowhere")}, {"sdxl": entry})
        assert self.job_of(catalog, sampler="euler_a").sampler == "euler_a"
        with pytest.raises(Unsupported, match=r"it has euler_a$"):
            self.job_of(catalog, sampler="euler")

    def test_a_flow_matching_model_has_its_own(self) -> None:
        catalog = catalog_over({"sdxl": Path("nowhere")}, {"sdxl": {"family": "sd3"}})
        with pytest.raises(Unsupported, match="only its own") as caught:
            self.job_of(catalog, sampler="euler")
        assert caught.value.field == "sampler"

    def test_an_alias_leads_to_a_model_that_has_it(self) -> None:
        flow, noise = {"family": "sd3"}, {"family": "sdxl"}
        folders = {"flow": Path("nowhere"), "noise": Path("nowhere")}
        catalog = catalog_over(folders, {"flow": flow, "noise": noise})
        both = Catalog.model_validate(
            {"models": catalog.models, "aliases": {"sdxl": ["flow", "noise"]}}
        )
        assert self.job_of(both).model == "flow"
        assert self.job_of(both, sampler="ddim").model == "noise"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"family": "flux", "samplers": ["euler"]}, "has its own sampler"),
        ({"family": "sdxl", "samplers": ["lms"]}, "no sampler 'lms'"),
        ({"family": "sdxl", "samplers": ["ddim"], "defaults": {"sampler": "heun"}}, "'heun' is"),
        ({"family": "sdxl", "profiles": {"p": {"sampler": "x"}}}, "profile 'p': the sampler 'x'"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        catalog_over({"m": Path("nowhere")}, {"m": entry})


def test_a_checkpoint_that_they_do_not_fit_fails_to_load(tmp_path: Path) -> None:
    """As some SDXL checkpoints do, whose noise has no betas."""
    pipe = skeletons.tiny_sdxl()
    pipe.scheduler = diffusers.EDMEulerScheduler()
    skeletons.save(pipe, tmp_path / "edm")
    with pytest.raises(ModelFailed, match="do not fit its EDMEulerScheduler; set samplers"):
        load_pipelines(catalog_over({"m": tmp_path / "edm"}, {"m": ENTRY}).models["m"], "cpu")
    without = {"family": "sdxl", "samplers": []}
    load_pipelines(catalog_over({"m": tmp_path / "edm"}, {"m": without}).models["m"], "cpu")
