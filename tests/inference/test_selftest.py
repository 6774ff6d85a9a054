"""Lanes are found by trying, and each lane keeps its promise afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig

from inference import selftest
from inference.catalog import Catalog
from inference.coalesce import Rendezvous, forward
from inference.job import Mode
from inference.loading import load_pipelines
from inference.model import LoadedModel, load_model
from inference.model_spec import ModelSpec
from inference.prompts import PromptCache
from inference.residency.memory import Gauge
from inference.selftest import (
    best_rows,
    find_lane,
    floor_and_slope,
    measure,
    sample_calls,
)
from inference.status import Lane
from tests.inference.making import Bench, difference, job, plain

PAG = {Mode.GENERATE: "StableDiffusionXLPAGPipeline"}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def loaded(spec: ModelSpec) -> LoadedModel:
    return load_model(spec, "cpu", Rendezvous(), PromptCache(1 << 20), preview_side_px=0)


@pytest.fixture
def pag(catalog: Catalog) -> ModelSpec:
    changes = {"name": "pag", "pipelines": PAG, "modes": (Mode.GENERATE,)}
    return catalog.models["sdxl"].model_copy(update=changes)


@pytest.mark.parametrize("name", ["flux", "flux-cfg", "sdxl"])
def test_ordinary_pipelines_merge(catalog: Catalog, name: str) -> None:
    model = loaded(catalog.models[name])
    assert {find_lane(model, mode) for mode in model.spec.modes} == {Lane.MERGE}


def test_pag_is_found_out_by_trying(pag: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list of names: merged rows would mix silently, turns disturb the processors."""
    monkeypatch.setattr(selftest, "EXCLUSIVE_WORDS", ())
    assert find_lane(loaded(pag), Mode.GENERATE) is Lane.EXCLUSIVE


def test_pag_runs_exclusive_and_as_alone(catalog: Catalog, pag: ModelSpec) -> None:
    bench = Bench(
        catalog.model_copy(update={"models": {"pag": pag, "flux": catalog.models["flux"]}})
    )
    wanted = [job(f"p{seed}", "pag", seeds=(seed,), num_inference_steps=3) for seed in (1, 2, 3)]
    for one in wanted:
        bench.submit(one)
    bench.submit(job("beside"))
    together = 0
    while bench.worker.busy:
        bench.ticks(1)
        running = [image.job.model for image in bench.worker._running]
        together = max(together, running.count("pag"))
    assert together == 1
    assert bench.worker.status(True).models[0].lanes == {Mode.GENERATE: Lane.EXCLUSIVE}
    for one in wanted:
        assert bench.seen.picture(one.id).tobytes() == plain(pag, one).tobytes()
    assert bench.seen.picture("beside")


def with_cache(pipes: Mapping[Mode, Any]) -> Mapping[Mode, Any]:
    """A first-block cache that reuses all that it can."""
    config = FirstBlockCacheConfig(threshold=1.0)
    pipes[Mode.GENERATE].transformer.enable_cache(config)
    return pipes


def test_a_step_cache_is_found_out_by_trying(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers one picture's step for the next picture: merged or in turns, both are spoilt."""
    model = loaded(catalog.models["flux"])
    with_cache(model.pipes)
    monkeypatch.setattr(LoadedModel, "step_caches", [])
    assert find_lane(model, Mode.GENERATE) is Lane.EXCLUSIVE


def test_a_step_cache_needs_no_trying(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it spoils may be less than 16-bit weights are allowed to differ."""
    model = loaded(catalog.models["flux"])
    with_cache(model.pipes)
    monkeypatch.setattr(selftest, "_same", lambda *_: True)
    assert find_lane(model, Mode.GENERATE) is Lane.EXCLUSIVE


def test_a_step_cache_runs_exclusive_and_as_alone(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture after the other, and nothing of the first is left for the second."""
    spec = catalog.models["flux"].model_copy(update={"modes": (Mode.GENERATE,)})
    monkeypatch.setattr(
        "inference.residency.reader.read_pipelines",
        lambda spec, device, *_: with_cache(load_pipelines(spec, device)),
    )
    bench = Bench(catalog.model_copy(update={"models": {"flux": spec}}))
    wanted = [job(f"c{seed}", seeds=(seed,), num_inference_steps=6) for seed in (1, 2)]
    for one in wanted:
        bench.submit(one)
    bench.finish()
    assert bench.worker._residents.get("flux").lanes == {Mode.GENERATE: Lane.EXCLUSIVE}
    without = plain(spec, wanted[0])
    monkeypatch.setattr(
        "tests.inference.making.load_pipelines",
        lambda spec, device: with_cache(load_pipelines(spec, device)),
    )
    for one in wanted:
        assert bench.seen.picture(one.id).tobytes() == plain(spec, one).tobytes()
    assert plain(spec, wanted[0]).tobytes() != without.tobytes()


def test_an_exclusive_mode_has_the_model_to_itself(catalog: Catalog, pag: ModelSpec) -> None:
    """The model's other modes merge; none of their calls runs beside the exclusive one."""
    both = pag.model_copy(update={"modes": (Mode.GENERATE, Mode.IMG2IMG)})
    bench = Bench(catalog.model_copy(update={"models": {"pag": both}}))
    bench.submit(job("before", "pag", mode=Mode.IMG2IMG, num_inference_steps=6))
    bench.ticks(2)
    bench.submit(job("alone", "pag", num_inference_steps=3))
    bench.ticks(1)
    bench.submit(job("after", "pag", mode=Mode.IMG2IMG, num_inference_steps=6))
    while bench.worker.busy:
        running = [image.job.id for image in bench.worker._running]
        assert "alone" not in running or running == ["alone"]
        bench.ticks(1)
    assert bench.worker.status(True).models[0].lanes == {
        Mode.GENERATE: Lane.EXCLUSIVE,
        Mode.IMG2IMG: Lane.MERGE,
    }
    for name in ("before", "alone", "after"):
        assert bench.seen.picture(name)


def test_a_model_that_mixes_rows_is_not_merged(catalog: Catalog) -> None:
    """A denoiser whose rows see one another fails merged and passes in turns."""
    model = loaded(catalog.models["flux"])
    attached = model.attached[0]
    real = attached.forward

    def mixing(**arguments: Any) -> Any:
        rows = arguments["hidden_states"]
        (output,) = real(**arguments)
        return (output + rows.mean(dim=0, keepdim=True),)

    attached.forward = mixing
    assert find_lane(model, Mode.GENERATE) is Lane.INTERLEAVE


def test_interleaved_requests_are_exact(catalog: Catalog) -> None:
    bench = Bench(catalog)
    bench.submit(job("warm-up"))
    bench.finish()
    model = bench.worker._residents.get("flux")
    model.lanes[Mode.GENERATE] = Lane.INTERLEAVE
    wanted = [job(f"i{seed}", seeds=(seed,), num_inference_steps=2 + seed) for seed in (1, 2, 3)]
    for one in wanted:
        bench.submit(one)
        bench.ticks(1)
    bench.finish()
    for one in wanted:
        assert difference(bench.seen.picture(one.id), plain(model.spec, one)) == 0


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ([1.0, 0.8, 0.6, 0.59, 0.58], 4),
        ([1.0, 0.7, 0.55, 0.5, 0.45], 16),
        ([1.0, 0.99, 0.98], 1),
        ([1.0, 1.3], 1),
        ([1.0], 1),
    ],
)
def test_the_budget_is_where_the_cost_of_a_row_stops_falling(costs: list[float], rows: int) -> None:
    assert best_rows(costs) == rows


def test_measuring_stops_where_more_rows_cost_more_or_take_long(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = sample_calls(loaded(catalog.models["flux"]), Gauge("cpu"))[0]
    for costs, looked_at in (
        ({1: 1e-3, 2: 9e-4, 4: 1.2e-3}, 3),
        ({1: 0.4, 2: 0.6}, 2),
        ({1: 5e-3, 2: 4e-3, 4: 3e-3, 8: 3e-3, 16: 3e-3}, 5),
    ):
        monkeypatch.setattr(selftest, "_row_seconds", lambda calls, c=costs: c[len(calls)])
        assert len(measure(call)) == looked_at


def test_the_cost_of_a_size_is_a_floor_and_a_slope() -> None:
    costs = [(3.0 + 2.0 * rows) / rows for rows in (1, 2, 4, 8)]
    assert floor_and_slope(costs) == pytest.approx((3.0, 2.0))
    assert floor_and_slope([5.0]) == (0.0, 5.0)


def test_work_grows_with_steps_and_pixels(catalog: Catalog) -> None:
    model = loaded(catalog.models["flux"])
    model.step_floor_seconds, model.step_slope_seconds = 1.0, 2.0
    assert model.work_seconds(job(num_inference_steps=4)) == pytest.approx(12.0)
    assert model.work_seconds(job(num_inference_steps=4, width=128)) == pytest.approx(20.0)


def test_the_samples_are_forwards_at_the_default_size(catalog: Catalog) -> None:
    samples = sample_calls(loaded(catalog.models["flux-cfg"]), Gauge("cpu"))
    calls = {type(call.target.module).__name__: (call, times) for call, times in samples}
    assert set(calls) == {"CLIPTextModel", "T5EncoderModel", "FluxTransformer2DModel", "Decoder"}
    denoiser, times = calls["FluxTransformer2DModel"]
    assert times == 2  # with and without the prompt
    assert denoiser.tokens == 4 * 4  # 64 px are 8 latents, packed two by two
    assert forward([denoiser])[0][0].shape == (1, 16, 16)
    decoder, times = calls["Decoder"]
    assert (times, decoder.tokens) == (1, 8 * 8)
    assert forward([decoder])[0].shape == (1, 3, 64, 64)


def test_a_folder_without_weights_is_a_reason(catalog: Catalog, tmp_path: Path) -> None:
    from inference.errors import ModelFailed

    spec = catalog.models["flux"].model_copy(update={"source": str(tmp_path)})
    with pytest.raises(ModelFailed, match="no model_index"):
        loaded(spec)
