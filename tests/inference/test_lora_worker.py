"""LoRAs in company: loaded, mixed, bounded, cancelled and failed while other pictures are made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from inference import coalesce, skeletons, steps
from inference.catalog import Catalog
from inference.errors import LoraFailed
from inference.events import Cancelled, Failed, Progress
from inference.job import Job, Lora, Mode
from inference.loras import shelf as lora_shelf
from inference.loras.mix import Adapter, LoraRows, Mix, RowsFolded
from inference.loras.spec import LoraSpec
from inference.status import Lane
from tests.inference.loras import random_lora, saved
from tests.inference.making import Bench, catalog_over, difference, job, plain

ENTRIES = {
    "flux": {"family": "flux", "max_sequence_length": 16},
    # it computes some layers on the tokens of all rows in one line
    "z-image": {"family": "z-image", "max_sequence_length": 64, "modes": ["generate"]},
}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("served")
    zimage, flux = skeletons.tiny_zimage(), skeletons.tiny_flux()
    zimage.save_pretrained(root / "z-image")
    weights = {
        "a": random_lora(flux.transformer, "transformer", 0),
        "b": random_lora(flux.transformer, "transformer", 1, rank=2),
        "c": random_lora(flux.transformer, "transformer", 2, pick=lambda path: ".ff." in path),
        "z": random_lora(zimage.transformer, "transformer", 3),
    }
    files = {name: saved(one, root / f"{name}.safetensors") for name, one in weights.items()}
    broken = root / "broken.safetensors"
    broken.write_bytes(b"\x80\x05nothing")
    made = catalog_over({"flux": folders["flux"], "z-image": root / "z-image"}, ENTRIES)
    loras = {
        "flux": {name: files[name] for name in "abc"} | {"broken": broken},
        "z-image": {"z": files["z"]},
    }
    models = {
        name: spec.model_copy(
            update={"loras": {key: LoraSpec(source=str(at)) for key, at in loras[name].items()}}
        )
        for name, spec in made.models.items()
    }
    return made.model_copy(update={"models": models})


@pytest.fixture(scope="module")
def bench(served: Catalog) -> Iterator[Bench]:
    yield Bench(served)
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> Iterator[None]:
    bench.finish()
    bench.seen.events.clear()
    with capture_logs():  # a traceback drawn for people takes seconds
        yield
    assert nothing_is_left(bench)


def nothing_is_left(bench: Bench) -> bool:
    """Whether every layer of every model runs its own forward."""
    models = [one.model for one in bench.worker._residents._all.values() if one.model is not None]
    return not any(
        "forward" in module.__dict__
        for model in models
        for attached in model.attached
        for module in attached.module.modules()
        if module is not attached.module
    )


def asks(name: str, *loras: tuple[str, float], **changes: Any) -> Job:
    named = tuple(Lora(name=one, strength=strength) for one, strength in loras)
    return job(name, loras=named, negative_prompt=None, **changes)


def settle(bench: Bench) -> None:
    """Wait until all that was asked for has been read, so that all may start at once."""
    for name in {image.job.model for image in bench.worker._waiting}:
        bench.worker._residents.get(name)
    bench.worker._find_models()
    while not all(image.ready for image in bench.worker._waiting):
        time.sleep(0.001)


def made_alone(bench: Bench, wanted: Job) -> Any:
    bench.finish()
    bench.seen.events.clear()
    bench.submit(wanted)
    settle(bench)
    bench.finish()
    return bench.seen.picture(wanted.id)


MIXES: list[tuple[tuple[str, float], ...]] = [
    (),
    (("a", 0.5),),
    (("a", 1.0),),
    (("b", 0.8),),
    (("a", 0.3), ("b", -0.5)),
]


def many() -> list[Job]:
    return [
        asks(f"j{number}", *mix, seeds=(number,), num_inference_steps=4 + number)
        for number, mix in enumerate(MIXES)
    ]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[Mix]]:
    """What the calls of each forward of the denoiser brought, from here on."""
    seen: list[list[Mix]] = []

    def watched(calls: Any) -> Any:
        if {"timestep", "t"} & calls[0].arguments.keys():
            seen.append([call.brought.get(Mix, Mix()) for call in calls])
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", watched)
    return seen


def test_staggered_requests_with_their_own_loras_are_as_alone(
    bench: Bench, forwards: list[list[Mix]]
) -> None:
    for wanted in many():
        bench.submit(wanted)
        settle(bench)
        bench.ticks(2)
    bench.finish()
    together = {wanted.id: bench.seen.picture(wanted.id) for wanted in many()}
    assert max(len(set(company)) for company in forwards) >= 3
    for wanted in many():
        assert difference(together[wanted.id], made_alone(bench, wanted)) <= 1, wanted.id
    without = made_alone(bench, asks("j1", seeds=(1,), num_inference_steps=5))
    assert difference(together["j1"], without) > 10


def test_a_fetched_one_is_found_by_its_path_and_kept_by_its_name(
    bench: Bench, served: Catalog, tmp_path: Path
) -> None:
    def wanted(name: str, **place: Any) -> Job:
        return job(name, "flux", loras=(Lora(name=name, strength=0.8, **place),))

    file = Path(served.models["flux"].loras["a"].source)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    jobs = [wanted("a"), wanted("sha256:1", path=str(moved)), wanted("sha256:2", path="gone")]
    for one in jobs:
        bench.submit(one)
        bench.finish()
    moved.unlink()
    assert difference(bench.seen.picture("a"), bench.seen.picture("sha256:1")) == 0
    lost = bench.seen.outcome("sha256:2")
    assert isinstance(lost, Failed) and "No such file" in str(lost.error)
    bench.seen.events.clear()
    bench.submit(jobs[1])
    bench.finish()
    assert bench.seen.picture("sha256:1")


def test_strength_zero_is_the_plain_call_to_the_bit(bench: Bench, served: Catalog) -> None:
    expected = plain(served.models["flux"], asks("j"))
    assert made_alone(bench, asks("j", ("a", 1.0))).tobytes() != expected.tobytes()
    assert made_alone(bench, asks("j", ("a", 0.0))).tobytes() == expected.tobytes()
    assert made_alone(bench, asks("j")).tobytes() == expected.tobytes()


def test_loading_one_while_others_run_changes_no_pixel_of_theirs(served: Catalog) -> None:
    """To the bit: the same company, its LoRA loaded before or in the middle."""

    def run(loaded_before: bool) -> list[bytes]:
        bench = Bench(served)
        made_alone(bench, asks("warm-up", ("c", 0.5)) if loaded_before else asks("warm-up"))
        bench.submit(asks("first", num_inference_steps=8))
        bench.submit(asks("second", ("a", 1.0), seeds=(2,), num_inference_steps=8))
        settle(bench)
        bench.ticks(6)
        shelf = bench.worker._residents.get("flux").loras
        assert (("c", None) in shelf._kept) is loaded_before
        bench.submit(asks("late", ("c", 0.5), seeds=(3,)))
        settle(bench)
        assert 0 < len(bench.seen.progress("first")) < 8
        bench.finish()
        return [bench.seen.picture(name).tobytes() for name in ("first", "second", "late")]

    assert run(loaded_before=True) == run(loaded_before=False)


def test_cancelling_one_changes_no_pixel_of_the_others(bench: Bench) -> None:
    def run(cancel: bool) -> list[bytes]:
        for name, mix in (("x", ()), ("y", (("a", 1.0),)), ("z", (("b", 1.0),))):
            bench.submit(asks(name, *mix, num_inference_steps=8))
        settle(bench)
        bench.ticks(5)
        if cancel:
            bench.worker.cancel(lambda one: one.id == "y")
        bench.finish()
        made = [bench.seen.picture(name).tobytes() for name in ("x", "z")]
        if cancel:
            assert isinstance(bench.seen.outcome("y"), Cancelled)
            assert 0 < len(bench.seen.progress("y")) < 8
        bench.seen.events.clear()
        return made

    assert run(cancel=True) == run(cancel=False)


def test_one_that_cannot_be_loaded_ends_its_own_picture_alone(bench: Bench) -> None:
    bench.submit(asks("good", ("a", 1.0)))
    bench.submit(asks("bad", ("broken", 1.0)))
    bench.submit(asks("gone", ("no longer listed", 1.0)))
    bench.submit(asks("unused", ("broken", 0.0)))
    bench.finish()
    for name, says in (("bad", "pickled"), ("gone", "not there")):
        failed = bench.seen.outcome(name)
        assert isinstance(failed, Failed) and isinstance(failed.error, LoraFailed)
        assert failed.error.kind == "lora_failed" and says in str(failed.error)
    good, unused = bench.seen.picture("good"), bench.seen.picture("unused")
    assert difference(good, made_alone(bench, asks("good", ("a", 1.0)))) <= 1
    assert difference(unused, made_alone(bench, asks("unused"))) <= 1


@pytest.mark.parametrize("most", [1, 2, 8])
def test_a_forward_mixes_only_so_many(
    served: Catalog, forwards: list[list[Mix]], most: int
) -> None:
    bench = Bench(served, max_loras_per_forward=most)
    for number, name in enumerate(["a", "b", "c", None, "a"]):
        mix = [(name, 1.0)] if name else []
        bench.submit(asks(f"j{number}", *mix, seeds=(number,)))
    settle(bench)
    bench.finish()
    used = [len({part[0] for mix in company for part in mix.parts}) for company in forwards]
    assert max(used) == min(most, 3)
    assert max(map(len, forwards)) == {1: 3, 2: 4, 8: 5}[most]
    for number in range(5):
        assert bench.seen.picture(f"j{number}")


@pytest.mark.parametrize("lane", [Lane.INTERLEAVE, Lane.EXCLUSIVE])
def test_a_lane_that_shares_no_forward_has_them_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lane: Lane, forwards: list[list[Mix]]
) -> None:
    expected = [made_alone(bench, wanted) for wanted in many()]
    bench.seen.events.clear()
    lanes = bench.worker._residents.get("flux").lanes
    monkeypatch.setitem(lanes, Mode.GENERATE, lane)
    for wanted in many():
        bench.submit(wanted)
    bench.finish()
    assert max(map(len, forwards)) == 1
    for wanted, picture in zip(many(), expected, strict=True):
        assert bench.seen.picture(wanted.id).tobytes() == picture.tobytes()


def test_a_forward_that_raises_leaves_the_model_as_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("in the middle")

    block = bench.worker._residents.get("flux").attached[0].module.single_transformer_blocks[0]
    expected = made_alone(bench, asks("next"))
    with monkeypatch.context() as patch:
        patch.setattr(block.act_mlp, "forward", failing)
        bench.submit(asks("bad", ("a", 1.0)))
        bench.finish()
    assert isinstance(bench.seen.outcome("bad"), Failed)
    assert nothing_is_left(bench)
    assert made_alone(bench, asks("next")).tobytes() == expected.tobytes()


def test_a_model_that_folds_its_rows_mixes_none_but_makes_all(
    bench: Bench, forwards: list[list[Mix]]
) -> None:
    """Z-Image lines the tokens of all rows up before its first layer."""

    def wish(name: str, *mix: tuple[str, float]) -> Job:
        return asks(name, *mix, model="z-image", num_inference_steps=3)

    jobs = [wish("none"), wish("half", ("z", 0.5)), wish("one", ("z", 1.0)), wish("too", ("z", 1))]
    for wanted in jobs:
        bench.submit(wanted)
    settle(bench)
    bench.finish()
    assert len(set(forwards[0])) == 3, "they were to meet once, to find out"
    assert all(len(set(company)) == 1 for company in forwards[8:])
    assert max(len(company) for company in forwards[8:]) == 2, "equal ones still share"
    together = {wanted.id: bench.seen.picture(wanted.id) for wanted in jobs}
    for wanted in jobs:
        assert difference(together[wanted.id], made_alone(bench, wanted)) <= 1
    assert difference(together["none"], together["one"]) > 10


def test_reading_one_holds_nobody_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download may take minutes; pictures that do not need it go on, and new ones start."""
    made_alone(bench, asks("warm-up"))
    arrived, go_on = threading.Event(), threading.Event()
    find = lora_shelf.find

    def slow(*args: Any) -> Any:
        arrived.set()
        assert go_on.wait(30)
        return find(*args)

    monkeypatch.setattr(lora_shelf, "find", slow)
    slow_one = Lora(name="a", strength=1.0, rank=3)
    bench.submit(job("slow", negative_prompt=None, loras=(slow_one,)))
    bench.ticks(1)
    assert arrived.wait(60)
    bench.submit(asks("quick"))
    while not any(event.job_id == "quick" for event in ends(bench)):
        bench.ticks(1)
    assert not bench.seen.progress("slow") and bench.worker.busy
    go_on.set()
    bench.finish(limit=20_000)
    assert bench.seen.picture("slow")


def ends(bench: Bench) -> list[Any]:
    return [event for event in bench.seen.events if not isinstance(event, Progress)]


def test_one_that_waits_to_be_read_can_be_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_alone(bench, asks("warm-up"))
    go_on = threading.Event()
    find = lora_shelf.find
    monkeypatch.setattr(lora_shelf, "find", lambda *args: (go_on.wait(30), find(*args))[1])
    bench.submit(job("slow", negative_prompt=None, loras=(Lora(name="a", strength=1.0, rank=1),)))
    bench.ticks(3)
    bench.worker.cancel(lambda one: one.id == "slow")
    assert isinstance(bench.seen.outcome("slow"), Cancelled)
    assert not bench.worker.busy
    go_on.set()


def test_what_cannot_be_read_is_not_tried_for_every_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def failing(spec: Any, name: str, *_: Any) -> Any:
        tries.append(name)
        raise LoraFailed("the hub does not answer")

    monkeypatch.setattr(lora_shelf, "find", failing)
    for number in range(3):
        bench.submit(asks(f"j{number}", ("far away", 1.0)))
    bench.finish()
    for number in range(3):
        failed = bench.seen.outcome(f"j{number}")
        assert isinstance(failed, Failed) and "does not answer" in str(failed.error)
    assert tries == ["far away"]
    monkeypatch.setattr(lora_shelf, "_RETRY_SECONDS", 0.0)
    shelf = bench.worker._residents.get("flux").loras
    shelf._failed.clear()
    for number in range(2):
        made_to_fail = asks(f"k{number}", ("far away", 1.0))
        bench.submit(made_to_fail)
        bench.finish()
    assert len(tries) == 3


class Folding(torch.nn.Module):
    """Computes on each row and, below it, on all of them once more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x, 0 * x]))  # type: ignore[no-any-return]


class QwenImageTransformer2DModel(Folding):
    """By this name it is known to fold like that."""


def mixes() -> list[Mix]:
    pair = torch.ones(1, 3), torch.ones(2, 1)
    adapter = Adapter("a", "a", {"transformer": {"inner": pair}})
    return [Mix(), Mix(((adapter, 0.5),))]


def test_rows_that_a_known_model_repeats_have_theirs_in_each_copy() -> None:
    module = QwenImageTransformer2DModel()
    rows = LoraRows(module, "transformer", 1 << 20)
    x = torch.arange(9.0).view(3, 3)
    with torch.no_grad():
        base = module(x)
        with rows.during(mixes(), [1, 2]):
            moved = module(x) - base
    sums = torch.tensor([0.0, 12.0, 21.0, 0, 0, 0])
    assert torch.allclose(moved, 0.5 * sums[:, None].expand(6, 2), atol=1e-5)


def test_rows_that_an_unknown_model_folds_are_told_apart_no_more() -> None:
    module = Folding()
    rows = LoraRows(module, "transformer", 1 << 20)
    x = torch.ones(2, 3)
    without, with_it = mixes()
    assert rows.key(without) == rows.key(with_it)
    with pytest.raises(RowsFolded), torch.no_grad(), rows.during([without, with_it], [1, 1]):
        module(x)
    assert "forward" not in module.inner.__dict__
    assert rows.key(without) != rows.key(with_it)
    with torch.no_grad():
        base = module(x)
        with rows.during([with_it, with_it], [1, 1]):
            assert torch.allclose(module(x) - base, torch.tensor([1.5, 1.5, 0, 0])[:, None])


@pytest.mark.parametrize(("limit_bytes", "kept"), [(1 << 20, 3), (0, 1)])
def test_what_was_gathered_for_a_company_is_kept_within_bounds(limit_bytes: int, kept: int) -> None:
    module = torch.nn.ModuleDict({"inner": torch.nn.Linear(3, 2)})
    rows = LoraRows(module, "transformer", limit_bytes)
    without, with_it = mixes()
    own = (3 + 2) * 4
    held = []
    for count in (2, 3, 4, 5, 6):
        with rows.during([without, with_it], [1, count]):
            held.append(rows.held_bytes)
    sizes = [own * (count + 1) for count in (2, 3, 4, 5, 6)]
    assert held[-1] == sum(sizes[-kept:])
    rows.forget([with_it.parts[0][0]])
    assert rows.held_bytes == 0
