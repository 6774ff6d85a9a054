"""Every ratio is the right way up, and is taken of what its name says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import memory, options, speed, subjects
from benchmarks.checkpoints import random_checkpoint, spec_of
from benchmarks.engine import Engine, Plain, picture_of
from benchmarks.options import with_options
from inference import selftest
from inference.job import Mode
from inference.model_spec import ModelSpec
from inference.residency.offload import Offload


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSpec]:
    before, selftest.MEASURED_SIZES = selftest.MEASURED_SIZES, 1
    torch.set_grad_enabled(False)
    folder = random_checkpoint("flux-dev", tmp_path_factory.mktemp("ck") / "flux", scale="tiny")
    yield spec_of("flux-dev", folder, "tiny")
    torch.set_grad_enabled(True)
    selftest.MEASURED_SIZES = before


def whose(action: Any) -> type:
    """The class whose method an action calls."""
    owner: type = type(action.func.__self__)
    return owner


def test_an_option_is_so_many_times_as_fast_as_diffusers_within_a_round(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by round: 2, 4 and 3 times as fast
    taken = {Plain: iter([2.0, 8.0, 9.0]), Engine: iter([1.0, 2.0, 3.0])}
    monkeypatch.setattr(options, "seconds_of", lambda action, device: next(taken[whose(action)]))
    jobs = [picture_of(spec, number, side=64, steps=1) for number in range(2)]
    told = options.compare(spec, ["none", "attention sage"], jobs, 3, "cpu")
    assert told["none"]["times_as_fast"] == 3.0
    assert told["none"]["seconds_per_picture"] == 1.0
    assert told["none"]["diffusers_seconds"] == told["diffusers"]["seconds_per_picture"] == 4.0
    assert told["none"]["largest_difference"] == 0
    assert told["attention sage"] == {
        "reasons": {"attention": "needs sageattention: pip install sageattention"}
    }


def test_an_option_that_fails_while_it_is_measured_ends_alone(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, failing = Engine.make, iter([True, False])

    def broken(engine: Engine, jobs: Any) -> Any:
        if next(failing, False):
            raise torch.OutOfMemoryError("no room for it")
        return make(engine, jobs)

    monkeypatch.setattr(Engine, "make", broken)
    jobs = [picture_of(spec, 1, side=64, steps=1)]
    told = options.compare(spec, ["vae tiling", "none"], jobs, 1, "cpu")
    assert told["vae tiling"] == {"reasons": {"run": "no room for it"}}
    assert told["none"]["times_as_fast"] > 0


def test_the_overhead_is_what_the_engine_takes_more(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typical(action: Any, rounds: int, device: str) -> float:
        (jobs,) = action.args
        return {Plain: 2.0, Engine: 2.5}[whose(action)] if len(jobs) == 1 else 4.0

    monkeypatch.setattr(speed, "typical_seconds", typical)
    told = speed.measure(spec, "cpu", rounds=1, crowd=8, side=64, steps=99)
    assert told["overhead"] == 0.25 and told["crowd_pictures_per_second"] == 2.0
    assert told["steps"] == spec.defaults.num_inference_steps and told["side"] == 64


def test_the_share_of_a_crowd_is_that_of_its_throughput(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Offload, int, int | None]] = []

    def serve(
        spec: ModelSpec, mode: Offload, device: str, rounds: Any, budget: int | None = None
    ) -> dict[str, Any]:
        asked.append((mode, len(rounds[0]), budget))
        seconds = 1.0 if budget is None else 1.25
        return {"seconds_per_picture": seconds, "peak_mib": 3 * 1024}

    monkeypatch.setattr(memory, "serve", serve)
    told = memory.crowd(spec, "cpu", 6, 64, 1, 2 * 1024**3)
    assert told["share_of_resident"] == 0.8 and not told["is_within"]
    assert asked == [(Offload.NONE, 6, None), (Offload.GROUP, 6, 2 * 1024**3)]
    assert memory.crowd(spec, "cpu", 6, 64, 1, 3 * 1024**3)["is_within"]


def test_a_budget_that_is_too_small_is_told_and_not_measured(spec: ModelSpec) -> None:
    rounds = [[picture_of(spec, one, side=64, steps=1)] for one in range(2)]
    told = memory.serve(spec, Offload.GROUP, "cpu", rounds, 1024)
    assert told["requested"] == "group" and "flux-dev needs" in told["failed"]
    well = memory.serve(spec, Offload.GROUP, "cpu", rounds, 10**9)
    assert well["effective"] == "none" and well["seconds_per_picture"] > 0
    assert 0 < well["peak_mib"] <= 1000 and not well["is_measured"]


def test_the_engine_encodes_every_prompt_anew_and_mixes_as_many_loras_as_it_may(
    spec: ModelSpec,
) -> None:
    engine = Engine(subjects.catalog_of(spec), "cpu")
    engine.load(spec.name)
    prompts = engine._worker._residents._all[spec.name].home.prompts
    job = picture_of(spec, 1, side=64, steps=1)
    first, again = engine.make([job]), engine.make([job])
    assert prompts.hits == 0 and prompts.misses >= 2
    assert np.array_equal(first.pictures["p1"], again.pictures["p1"])
    assert again.first_steps["p1"] > 0
    engine.mix_at_most(3)
    assert engine._worker._settings.max_loras_per_forward == 3
    engine.close()
    assert engine.used_bytes == 0


def test_options_are_those_asked_for_and_no_others_of_the_mode_that_is_measured(
    spec: ModelSpec,
) -> None:
    values = spec.model_dump(mode="json", exclude_unset=True)
    values |= {"modes": ["img2img", "generate"], "compile": True, "quantization": "torchao-int8"}
    narrowed = with_options(ModelSpec.model_validate(values), {"attention": "sage"})
    assert narrowed.modes == (Mode.GENERATE,)
    assert narrowed.attention == "sage"
    assert not narrowed.compile and narrowed.quantization is None
