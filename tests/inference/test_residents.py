"""Models that come and go on a small device: the same pictures, nobody stalled, nothing left."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

from inference import model, selftest, skeletons
from inference.catalog import Catalog
from inference.errors import ModelFailed
from inference.events import Failed, ImageDone
from inference.job import Mode
from inference.residency import reader, resident
from inference.residency.held import HeldParts
from inference.residency.placement import Weights
from inference.residency.quiet import QUIET
from inference.status import ModelAction, ModelState, ModelStatus
from tests.inference.making import ENTRIES, Bench, catalog_over, difference, job, plain

MIB = 1024**2


@pytest.fixture(scope="module")
def three(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Three models of one size, made to generate only: the self-test is what takes long."""
    third = tmp_path_factory.mktemp("models") / "third"
    skeletons.tiny_flux(seed=2).save_pretrained(third)
    found = {"flux": folders["flux"], "flux-cfg": folders["flux-cfg"], "third": third}
    entries = {**ENTRIES, "third": ENTRIES["flux"]}
    every = catalog_over(found, entries)
    return changed(every, **{name: {"modes": (Mode.GENERATE,)} for name in found})


@pytest.fixture(autouse=True)
def _one_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One call to a forward: how many pay is measured, and memory goes with it."""
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    yield
    torch.set_grad_enabled(True)


def changed(catalog: Catalog, **entries: dict[str, Any]) -> Catalog:
    """The catalog with keys of some models changed."""
    models = {
        name: spec.model_copy(update=entries.get(name, {})) for name, spec in catalog.models.items()
    }
    return catalog.model_copy(update={"models": models})


def sizes(catalog: Catalog) -> dict[str, int]:
    """Bytes of each model's weights, as its files say."""
    return {one.name: one.weight_bytes for one in Bench(catalog).worker.status(True).models}


def small(catalog: Catalog, **settings: Any) -> Bench:
    """A device that holds the largest model and its working memory, and no other beside it."""
    largest = max(sizes(catalog).values())
    return Bench(catalog, device_memory_bytes=largest + MIB, **settings)


def status_of(bench: Bench, name: str) -> ModelStatus:
    return next(one for one in bench.worker.status(True).models if one.name == name)


def until(bench: Bench, condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        bench.worker.tick()


def test_files_tell_what_the_weights_will_take(three: Catalog) -> None:
    bench, before = Bench(three), sizes(three)
    for name in three.models:
        bench.worker._residents.get(name)
        bench.ticks(1)
        # beside the weights there are a few buffers that no file has
        assert before[name] <= status_of(bench, name).weight_bytes <= before[name] * 1.01 + 4096
        assert 0 < status_of(bench, name).working_bytes < MIB
    total = sum(one.weight_bytes for one in bench.worker.status(True).models)
    until(bench, lambda: bench.worker.status(True).used_memory_bytes > total)


@pytest.mark.parametrize("ram_bytes", [0, 100 * MIB])
def test_pictures_are_the_same_after_leaving_and_coming_back(
    three: Catalog, ram_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = small(three, ram_bytes=ram_bytes)
    tests: list[str] = []
    run = resident.run_selftest
    monkeypatch.setattr(
        resident,
        "run_selftest",
        lambda model, device: (tests.append(model.spec.name), run(model, device))[1],
    )
    made: dict[str, list[bytes]] = {}
    for turn in range(2):
        for name in three.models:
            bench.submit(job(f"{name}-{turn}", model=name))
            bench.finish()
            made.setdefault(name, []).append(bench.seen.picture(f"{name}-{turn}").tobytes())
            told = bench.worker.status(True)
            assert 0 < told.used_memory_bytes <= told.memory_bytes
            states = {one.name: one.state for one in told.models}
            assert [each for each in states if states[each] is ModelState.READY] == [name]
    for name, (first, second) in made.items():
        assert first == second == plain(three.models[name], job(model=name)).tobytes()
    assert bench.worker.status(True).swaps == 5
    assert sorted(tests) == sorted(three.models), "what was found out is kept"
    left = {one.state for one in bench.worker.status(True).models} - {ModelState.READY}
    assert left == {ModelState.IN_RAM if ram_bytes else ModelState.UNLOADED}


@pytest.fixture
def posing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as a device beside RAM: weights that are brought there are copies."""
    start = Weights.__init__

    def begin(self: Weights, *args: Any) -> None:
        start(self, *args)
        self.on_device = False
        self._in_ram = [one.data for one in resident_tensors(self)]

    monkeypatch.setattr(Weights, "_has_two_places", True)
    monkeypatch.setattr(Weights, "__init__", begin)


@pytest.mark.usefixtures("posing")
def test_on_a_device_of_its_own_memory_weights_are_copied_and_pointed_back(three: Catalog) -> None:
    bench = small(three, ram_bytes=100 * MIB)
    first = bench.worker._residents.get("flux")
    weight = first.attached[0].module.proj_out.weight
    here = weight.data_ptr()
    bench.submit(job("a"))
    bench.submit(job("b", model="third"))
    bench.finish()
    assert weight.data_ptr() != here, "parked: the copy on the device is given back"
    bench.submit(job("c"))
    bench.finish()
    assert bench.worker._residents.get("flux") is first
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("c").tobytes()
    tight = small(three, ram_bytes=0)
    kept = tight.worker._residents.get("flux").attached[0].module.proj_out.weight
    assert not tight.worker._residents._all["flux"].weights[0].in_ram and kept.isfinite().all()
    tight.submit(job("a", model="third"))
    tight.submit(job("b"))
    tight.finish()
    assert tight.seen.picture("b").tobytes() == bench.seen.picture("a").tobytes()


def resident_tensors(weights: Weights) -> list[torch.Tensor]:
    return [*weights.module.parameters(), *weights.module.buffers()]


@pytest.mark.parametrize("ram_bytes", [0, 100 * MIB])
@pytest.mark.usefixtures("posing")
def test_what_two_models_have_in_common_is_held_once_and_stays_for_the_other(
    three: Catalog, ram_bytes: int
) -> None:
    """All but the denoiser of two entries of one source."""
    twin = three.models["flux"].model_copy(update={"name": "twin"})
    both = three.model_copy(update={"models": {**three.models, "twin": twin}})
    bench = Bench(both, ram_bytes=ram_bytes)
    residents = bench.worker._residents
    models = [residents.get(name) for name in ("flux", "twin")]
    ours, its = (model.pipes[Mode.GENERATE] for model in models)
    for part in ("text_encoder", "text_encoder_2", "vae"):
        assert getattr(ours, part) is getattr(its, part)
    assert ours.transformer is not its.transformer
    made, parts = [], residents._all["flux"].parts(0.0) | residents._all["twin"].parts(0.0)
    assert sum(parts.values()) < 1.9 * status_of(bench, "flux").weight_bytes
    for name in ("flux", "twin"):
        bench.submit(job(name, model=name))
    bench.finish()
    made = [bench.seen.picture(name).tobytes() for name in ("flux", "twin")]
    del models, ours
    bench.worker.command("flux", ModelAction.UNLOAD)
    until(bench, lambda: status_of(bench, "flux").state is ModelState.UNLOADED)
    assert all(one.on_device for one in residents._all["twin"].weights)
    bench.submit(job("again", model="twin"))
    bench.finish()
    assert made == [bench.seen.picture("again").tobytes()] * 2
    # one forward for both models' prompts has one attached module to be asked at
    bench.worker.command("twin", ModelAction.UNLOAD)
    until(bench, lambda: status_of(bench, "twin").state is ModelState.UNLOADED)
    assert bench.worker._rendezvous._attached == {}


@pytest.mark.usefixtures("posing")
def test_what_a_model_read_ahead_shares_leaves_the_device_with_the_other(three: Catalog) -> None:
    """Nobody would count it there; its copy in RAM, given back before, is made again."""
    twin = three.models["flux"].model_copy(update={"name": "twin"})
    both = three.model_copy(update={"models": {**three.models, "twin": twin}})
    bench = Bench(both, ram_bytes=100 * MIB)
    residents = bench.worker._residents
    residents.get("flux")
    first, ahead = residents._all["flux"], residents._all["twin"]
    first.keeps_ram = False
    first.forget_ram([])
    ahead.keeps_ram = True
    ahead.read()
    until(bench, lambda: ahead.is_read)
    shared = [one for one in ahead.weights if one in first.weights]
    assert len(shared) == 3 and not any(one.in_ram for one in shared)
    bench.worker.command("flux", ModelAction.UNLOAD)
    until(bench, lambda: status_of(bench, "flux").state is ModelState.UNLOADED)
    assert not any(one.on_device for one in ahead.weights)
    bench.submit(job("j", model="twin"))
    bench.finish()
    # another copy may lie at another alignment, for which sums come out otherwise
    assert difference(bench.seen.picture("j"), plain(twin, job(model="twin"))) <= 1


def test_a_model_is_read_though_the_files_of_one_like_it_have_gone(
    three: Catalog, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(three.models["flux"].source, own)
    first = three.models["flux"].model_copy(update={"name": "first", "source": str(own)})
    both = three.model_copy(update={"models": {**three.models, "first": first}})
    bench = Bench(both)
    bench.worker._residents.get("first")
    shutil.rmtree(own)
    bench.submit(job("a"))
    bench.submit(job("b", model="first"))
    bench.finish()
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("b").tobytes()


def test_prompts_are_encoded_anew_once_the_files_are_others(three: Catalog, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(three.models["flux"].source, own)
    bench = Bench(changed(three, flux={"source": str(own)}))
    bench.submit(job("a"))
    bench.finish()
    bench.worker.command("flux", ModelAction.UNLOAD)
    until(bench, lambda: status_of(bench, "flux").state is ModelState.UNLOADED)
    shutil.rmtree(own)
    shutil.copytree(three.models["third"].source, own)
    bench.submit(job("b"))
    bench.submit(job("c", model="third"))
    bench.finish()
    assert bench.seen.picture("b").tobytes() == bench.seen.picture("c").tobytes()
    assert bench.seen.picture("b").tobytes() != bench.seen.picture("a").tobytes()


def test_what_was_dropped_is_no_longer_in_memory(three: Catalog) -> None:
    bench = small(three)
    model = bench.worker._residents.get("flux")
    watched = [weakref.ref(one.module) for one in model.attached]
    del model
    bench.worker._residents.get("third")
    gc.collect()
    assert [one() for one in watched] == [None] * len(watched)


def test_reading_that_fails_in_whatever_way_fails_that_model_alone(
    three: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as RAM that cannot be pinned; once it can, the model comes."""
    bench = Bench(three, retry_load_seconds=0.0)

    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no RAM to pin")

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "read", full)
        bench.submit(job("a"))
        bench.finish()
    failed = bench.seen.outcome("a")
    assert isinstance(failed, Failed) and isinstance(failed.error, ModelFailed)
    assert "reading it failed: no RAM to pin" in str(failed.error)
    bench.submit(job("b"))
    bench.finish()
    assert bench.seen.picture("b")


def test_a_failure_is_told_until_the_model_is_tried_again(three: Catalog, tmp_path: Path) -> None:
    """Also when requests no longer fail of it at once; one that is pinned is tried by itself."""
    gone = tmp_path / "gone"
    bench = Bench(changed(three, flux={"source": str(gone)}), retry_load_seconds=0.2)
    bench.submit(job("a"))
    bench.finish()
    assert status_of(bench, "flux").is_barred
    bench.submit(job("other", model="third"))
    bench.finish()
    until(bench, lambda: not status_of(bench, "flux").is_barred)
    told = status_of(bench, "flux")
    assert told.state is ModelState.FAILED and str(gone) in told.reason
    bench.worker.command("flux", ModelAction.PIN)
    until(bench, lambda: status_of(bench, "flux").is_barred)
    shutil.copytree(three.models["flux"].source, gone)
    until(bench, lambda: status_of(bench, "flux").state is ModelState.READY)
    assert status_of(bench, "flux").reason == ""


@pytest.mark.parametrize("part", ["transformer", "vae.decoder"])
def test_weights_that_are_no_numbers_fail_the_model(
    three: Catalog, tmp_path: Path, part: str
) -> None:
    """They would paint black, which everybody would be charged for."""
    pipe = skeletons.tiny_flux(seed=2)
    next(attrgetter(part)(pipe).parameters()).data.fill_(torch.nan)
    pipe.save_pretrained(tmp_path)
    bench = Bench(changed(three, flux={"source": str(tmp_path)}))
    bench.submit(job())
    bench.finish()
    told = status_of(bench, "flux")
    assert told.state is ModelState.FAILED and "NaN" in told.reason


def test_a_picture_that_comes_out_as_no_numbers_fails_alone(three: Catalog) -> None:
    bench = Bench(three)
    bench.worker._residents.get("flux")
    bench.submit(job("a", guidance_scale=torch.inf, num_inference_steps=8))
    bench.submit(job("b"))
    bench.finish()
    failed = bench.seen.outcome("a")
    assert isinstance(failed, Failed) and "NaN" in str(failed.error)
    assert bench.seen.picture("b").tobytes() == plain(three.models["flux"], job()).tobytes()


def test_files_half_written_fail_that_model_alone(three: Catalog, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(three.models["third"].source, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    weights.write_bytes(b"")
    bench = Bench(changed(three, third={"source": str(broken)}))
    bench.submit(job("a"))
    bench.submit(job("b", model="third"))
    bench.finish()
    assert bench.seen.picture("a")
    failed = bench.seen.outcome("b")
    assert isinstance(failed, Failed) and isinstance(failed.error, ModelFailed)


@pytest.mark.parametrize("where", ["run_selftest", "fit_previewer", "LoraShelf"])
def test_what_failed_to_come_is_no_longer_in_memory(
    three: Catalog, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Though its error is kept, with which it fails requests for a while."""
    watched: list[weakref.ref[torch.nn.Module]] = []
    keep = HeldParts.keep

    def kept(*args: Any) -> Any:
        weights = keep(*args)
        watched.extend(weakref.ref(one.module) for one in weights)
        return weights

    def fails(*args: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(HeldParts, "keep", kept)
    monkeypatch.setattr(resident if where == "run_selftest" else model, where, fails)
    bench = Bench(three)
    bench.submit(job())
    gc.disable()
    try:
        bench.finish()
        assert status_of(bench, "flux").state is ModelState.FAILED
        assert watched and [one() for one in watched] == [None] * len(watched)
    finally:
        gc.enable()
    assert bench.worker._rendezvous._attached == {}
    until(bench, lambda: bench.worker.status(True).used_memory_bytes == 0)


def test_a_job_of_an_earlier_models_yaml_fails_alone(three: Catalog) -> None:
    bench = Bench(three)
    for name, wanted in {"a": job("a", "gone"), "b": job("b", mode=Mode.IMG2IMG)}.items():
        bench.submit(wanted)
        failed = bench.seen.outcome(name)
        assert isinstance(failed, Failed) and isinstance(failed.error, ModelFailed)
        assert "no more" in str(failed.error)
    bench.submit(job("c"))
    bench.finish()
    assert bench.seen.picture("c")


def test_who_runs_is_not_stalled_by_what_is_read(
    three: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, read = threading.Event(), reader.read_pipelines
    bench = Bench(three)
    bench.worker._residents.get("flux")

    def slowly(*args: Any) -> Any:
        assert go_on.wait(60)
        return read(*args)

    monkeypatch.setattr(reader, "read_pipelines", slowly)
    bench.submit(job("waits", model="third"))
    bench.submit(job("runs", num_inference_steps=20))
    until(bench, lambda: any(event.job_id == "runs" for event in bench.seen.events))
    until(bench, lambda: not bench.worker._running)
    assert bench.seen.picture("runs")
    assert status_of(bench, "third").state is ModelState.LOADING
    go_on.set()
    bench.finish()
    assert bench.seen.picture("waits")


def test_a_model_is_tested_between_the_steps_of_others(three: Catalog) -> None:
    bench = Bench(three)
    bench.worker._residents.get("flux")
    bench.submit(job("waits", model="third"))
    bench.submit(job("runs", num_inference_steps=100))
    until(bench, lambda: bench.worker._residents._all["third"]._aside is not None)
    before = len(bench.seen.progress("runs"))
    # one piece of the test and one step for each turn
    bench.ticks(20)
    assert bench.worker._residents._all["third"]._aside is not None
    assert len(bench.seen.progress("runs")) == before + 20
    bench.finish()
    alone = plain(three.models["flux"], job(num_inference_steps=100)).tobytes()
    assert bench.seen.picture("runs").tobytes() == alone
    assert bench.seen.picture("waits")


def test_of_models_asked_for_at_once_the_first_is_ready_first(three: Catalog) -> None:
    """In turns each would be ready when all are."""
    bench = Bench(three)
    for name in three.models:
        bench.submit(job(name, model=name))
        time.sleep(0.01)
    until(bench, lambda: any(one.is_ready for one in bench.worker._residents._all.values()))
    others = [one for one in bench.worker._residents._all.values() if not one.is_ready]
    assert [one.spec.name for one in others] == [*three.models][1:]
    assert all(one.model is None or not one.model.lanes for one in others)
    bench.finish()
    ends = [one.job_id for one in bench.seen.events if isinstance(one, ImageDone)]
    assert ends[0] == next(iter(three.models))


class Clock:
    """Time that the test makes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_swap_waits_for_the_bound_and_for_who_runs(
    three: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = small(three, model_wait_seconds=30.0)
    bench.worker._residents.get("flux")
    clock = Clock()
    bench.worker._clock = bench.worker._residents._clock = clock
    bench.worker._reports._clock = clock
    bench.worker._residents._all["flux"].arrived = -100.0
    bench.submit(job("long", num_inference_steps=40))
    bench.ticks(2)
    bench.submit(job("other", model="third"))
    bench.submit(job("same", num_inference_steps=2))
    until(bench, lambda: any(event.job_id == "same" for event in bench.seen.events))
    bench.ticks(3)
    clock.now = 31.0
    bench.ticks(1)
    bench.submit(job("late", num_inference_steps=2))
    bench.ticks(3)
    assert status_of(bench, "flux").state is ModelState.READY
    assert not bench.seen.progress("late") and not bench.seen.progress("other")
    until(bench, lambda: any(event.job_id == "other" for event in bench.seen.events))
    assert isinstance(bench.seen.outcome("long"), ImageDone)
    assert not bench.seen.progress("late"), "who came late waits for the model to come back"
    bench.finish()
    assert bench.seen.picture("late") and bench.worker.status(True).swaps == 2


def test_a_model_too_large_for_the_device_says_so(three: Catalog) -> None:
    bench = Bench(three, device_memory_bytes=min(sizes(three).values()) // 2)
    bench.submit(job())
    bench.finish()
    failed = bench.seen.outcome("j")
    assert isinstance(failed, Failed) and isinstance(failed.error, ModelFailed)
    assert "models may take" in str(failed.error)
    assert status_of(bench, "flux").state is ModelState.FAILED


def test_weights_that_fit_without_room_to_work_are_refused(three: Catalog) -> None:
    bench = Bench(three, device_memory_bytes=sizes(three)["flux"] + 8192)
    bench.submit(job())
    bench.finish()
    failed = bench.seen.outcome("j")
    assert isinstance(failed, Failed) and "to make a picture" in str(failed.error)
    assert bench.worker._residents._all["flux"].weights == []


def test_a_pinned_model_is_loaded_at_the_start_and_stays(three: Catalog) -> None:
    bench = small(changed(three, third={"pin": True}))
    bench.worker.prepare()
    assert status_of(bench, "third").state is ModelState.READY and status_of(bench, "third").pinned
    bench.submit(job())
    bench.finish()
    assert "third" in str(bench.seen.outcome("j").error)  # type: ignore[union-attr]
    bench.worker.command("third", ModelAction.UNPIN)
    bench.worker.command("flux", ModelAction.LOAD)
    until(bench, lambda: status_of(bench, "flux").state is ModelState.READY)
    assert status_of(bench, "third").state is ModelState.UNLOADED


def test_what_had_no_room_beside_a_pinned_model_comes_once_that_is_unpinned(
    three: Catalog,
) -> None:
    """At once, and not after the time for which a failure is kept."""
    bench = small(changed(three, third={"pin": True}))
    bench.worker.prepare()
    bench.submit(job("a"))
    bench.finish()
    assert isinstance(bench.seen.outcome("a"), Failed)
    bench.worker.command("third", ModelAction.UNPIN)
    bench.submit(job("b"))
    bench.finish()
    assert bench.seen.picture("b")


def test_preloading_stops_where_the_room_ends(three: Catalog) -> None:
    every = {name: {"preload": True} for name in three.models}
    bench = small(changed(three, **every))
    bench.worker.prepare()
    states = [one.state for one in bench.worker.status(True).models]
    assert states.count(ModelState.READY) == 1 and states.count(ModelState.UNLOADED) == 2
    assert bench.worker.status(True).swaps == 0


def test_unloading_waits_for_pictures_and_the_next_request_loads_again(three: Catalog) -> None:
    bench = Bench(three)
    bench.submit(job("a", num_inference_steps=10))
    until(bench, lambda: bool(bench.seen.progress("a")))
    bench.worker.command("flux", ModelAction.UNLOAD)
    bench.submit(job("b"))
    bench.ticks(2)
    assert status_of(bench, "flux").state is ModelState.READY
    until(bench, lambda: status_of(bench, "flux").state is not ModelState.READY)
    assert bench.seen.picture("a") and not bench.seen.progress("b")
    bench.finish()
    assert bench.seen.picture("b")
    bench.worker.command("flux", ModelAction.UNLOAD)
    until(bench, lambda: not bench.worker.at_work)
    assert status_of(bench, "flux").state is ModelState.UNLOADED
    assert bench.worker.status(True).used_memory_bytes == 0
    assert bench.worker.status(True).swaps == 0


def test_a_16_bit_model_is_read_without_changing_torch_for_running_steps(three: Catalog) -> None:
    spec = three.models["third"].model_copy(update={"dtype": "bfloat16"})
    seen: set[torch.dtype] = set()
    done = threading.Event()

    def steps() -> None:
        while not done.is_set():
            with QUIET.step():
                for _ in range(200):
                    seen.add(torch.get_default_dtype())

    worker = threading.Thread(target=steps)
    worker.start()
    try:
        pipes = reader.read_pipelines(spec, "cpu")
    finally:
        done.set()
        worker.join()
    assert seen == {torch.float32}
    assert pipes[Mode.GENERATE].transformer.dtype is torch.bfloat16
    assert torch.get_default_dtype() is torch.float32
