"""The engine's promises, on real pipelines: alone is exact, together is the same, faults stay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from inference import coalesce, steps
from inference.caps import Caps
from inference.catalog import Catalog
from inference.errors import ModelFailed, OutOfMemory, PipelineFailed
from inference.events import Cancelled, Failed
from inference.job import Job, Mode
from inference.running import Running
from tests.inference.making import Bench, as_png, difference, job, picture, plain


@pytest.fixture(scope="module")
def bench(catalog: Catalog) -> Iterator[Bench]:
    bench = Bench(catalog)
    yield bench
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.finish()
    bench.seen.events.clear()
    bench.worker._steps._caps = Caps()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls each forward took, from here on."""
    counts: list[int] = []

    def counted(calls: Any) -> Any:
        counts.append(len(calls))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", counted)
    return counts


@pytest.mark.parametrize("mode", [Mode.GENERATE, Mode.IMG2IMG, Mode.INPAINT])
@pytest.mark.parametrize("model", ["flux", "flux-cfg", "sdxl"])
def test_alone_is_bit_exact(bench: Bench, catalog: Catalog, model: str, mode: Mode) -> None:
    wanted = job(model=model, mode=mode)
    bench.submit(wanted)
    bench.finish()
    expected = plain(catalog.models[model], wanted)
    made = bench.seen.picture("j")
    assert made.tobytes() == expected.tobytes()
    assert as_png(made) == as_png(expected)


@pytest.mark.parametrize("model", ["flux", "sdxl"])
def test_outside_the_mask_nothing_changes(bench: Bench, model: str) -> None:
    bench.submit(job(model=model, mode=Mode.INPAINT, seeds=(1, 2)))
    bench.finish()
    source = np.asarray(picture())
    for index in range(2):
        made = np.asarray(bench.seen.picture("j", index))
        assert np.array_equal(made[:, :32], source[:, :32])
        assert not np.array_equal(made[:, 32:], source[:, 32:])


def staggered(model: str) -> list[Job]:
    """Six requests that differ in everything a request can differ in."""
    table: list[tuple[int, float, int, tuple[int, int], Mode]] = [
        (4, 1.0, 11, (64, 64), Mode.GENERATE),
        (9, 3.0, 12, (64, 64), Mode.GENERATE),
        (5, 7.0, 13, (96, 64), Mode.GENERATE),
        (7, 3.0, 14, (96, 64), Mode.IMG2IMG),
        (6, 1.5, 15, (64, 64), Mode.INPAINT),
        (12, 5.0, 16, (64, 64), Mode.GENERATE),
    ]
    return [
        job(
            f"j{seed}",
            model,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seeds=(seed,),
            width=size[0],
            height=size[1],
            mode=mode,
            prompt=f"prompt number {seed}",
        )
        for steps, guidance, seed, size, mode in table
    ]


@pytest.mark.parametrize("model", ["flux", "flux-cfg", "sdxl"])
def test_six_staggered_requests_are_as_alone(
    bench: Bench, catalog: Catalog, model: str, rows: list[int]
) -> None:
    for wanted in staggered(model):
        bench.submit(wanted)
        bench.ticks(2)
    bench.finish()
    assert max(rows) > 1, "nothing was merged, so nothing was shown"
    for wanted in staggered(model):
        alone = plain(catalog.models[model], wanted)
        assert difference(bench.seen.picture(wanted.id), alone) <= 1, wanted.id


def test_count_makes_one_picture_per_seed(bench: Bench, catalog: Catalog, rows: list[int]) -> None:
    wanted = job(seeds=(5, 6, 7, 8))
    bench.submit(wanted)
    bench.finish()
    assert max(rows) == 4
    for index in range(4):
        alone = plain(catalog.models["flux"], wanted, index)
        assert difference(bench.seen.picture("j", index), alone) <= 1


def test_cancel_in_a_batch_leaves_the_others_unchanged(bench: Bench) -> None:
    def run(cancel: bool) -> list[bytes]:
        for name, seed in (("a", 1), ("b", 2), ("c", 3)):
            bench.submit(job(name, seeds=(seed,), num_inference_steps=8))
        bench.ticks(3)
        if cancel:
            bench.worker.cancel(lambda one: one.id == "b")
        bench.finish()
        made = [bench.seen.picture(name) for name in ("a", "c")]
        if cancel:
            assert isinstance(bench.seen.outcome("b"), Cancelled)
            assert len(bench.seen.progress("b")) < 8
        bench.seen.events.clear()
        return [picture.tobytes() for picture in made]

    assert run(cancel=True) == run(cancel=False)


def test_cancel_before_the_start(bench: Bench) -> None:
    bench.submit(job("a"))
    bench.worker.cancel(lambda one: one.id == "a")
    assert isinstance(bench.seen.outcome("a"), Cancelled)
    assert not bench.worker.busy


def test_an_error_in_one_call_touches_no_other(
    bench: Bench, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward raises whenever the poisoned request is in it."""

    def poisoned(calls: Any) -> Any:
        given = [call.arguments.get("guidance") for call in calls]
        if any(one is not None and float(one[0]) == 6.5 for one in given):
            raise ValueError("poison")
        return coalesce.forward(calls)

    bench.submit(job("warm-up"))
    bench.finish()
    monkeypatch.setattr(steps, "forward", poisoned)
    for name, guidance in (("a", 3.0), ("bad", 6.5), ("c", 2.0)):
        bench.submit(job(name, guidance_scale=guidance))
    bench.finish()
    failed = bench.seen.outcome("bad")
    assert isinstance(failed, Failed) and isinstance(failed.error, PipelineFailed)
    assert "poison" in str(failed.error)
    for name, guidance in (("a", 3.0), ("c", 2.0)):
        alone = plain(catalog.models["flux"], job(name, guidance_scale=guidance))
        assert difference(bench.seen.picture(name), alone) <= 1


def test_an_error_in_preparing_one_call_touches_no_other(bench: Bench) -> None:
    bench.submit(job("good"))
    bench.submit(job("bad", mode=Mode.IMG2IMG, images=job(mode=Mode.INPAINT).images[1:]))
    bench.finish()
    assert isinstance(bench.seen.outcome("bad"), Failed)
    assert bench.seen.picture("good")


class _Full:
    """A device on which only so many calls fit into one forward."""

    def __init__(self, calls_that_fit: int) -> None:
        self.calls_that_fit = calls_that_fit
        self.tried: list[int] = []

    def forward(self, calls: Any) -> Any:
        self.tried.append(len(calls))
        if len(calls) > self.calls_that_fit:
            raise torch.OutOfMemoryError("no room")
        return coalesce.forward(calls)


def test_out_of_memory_is_retried_in_halves_and_learned_from(
    bench: Bench, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(job("warm-up"))
    bench.finish()
    full = _Full(calls_that_fit=1)
    monkeypatch.setattr(steps, "forward", full.forward)
    bench.submit(job(seeds=(1, 2, 3, 4)))
    bench.finish()
    assert full.tried[:2] == [4, 2]
    assert set(full.tried[2:]) == {1}, "what did not fit is tried again, step by step"
    for index in range(4):
        alone = plain(catalog.models["flux"], job(seeds=(1, 2, 3, 4)), index)
        assert difference(bench.seen.picture("j", index), alone) <= 1


def test_what_did_not_fit_is_let_go_before_the_next_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback keeps its frames' tensors alive; on a full device that would fail the halves."""
    bench.submit(job("warm-up"))
    bench.finish()
    held: list[weakref.ref[torch.Tensor]] = []

    def full(calls: Any) -> Any:
        assert not any(reference() is not None for reference in held)
        if len(calls) > 1 or len(held) < 2:
            partly = torch.empty(8)
            held.append(weakref.ref(partly))
            raise torch.OutOfMemoryError("no room")
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", full)
    bench.submit(job(seeds=(1, 2)))
    bench.finish()
    assert len(held) >= 2
    assert bench.seen.picture("j", 0) and bench.seen.picture("j", 1)


def test_a_failure_that_is_told_holds_no_tensors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(job("warm-up"))
    bench.finish()
    monkeypatch.setattr(steps, "forward", _Full(calls_that_fit=0).forward)
    bench.submit(job())
    bench.finish()
    failed = bench.seen.outcome("j")
    assert isinstance(failed, Failed)
    assert failed.error.__traceback__ is None and failed.error.__cause__ is None


def test_a_preview_that_fails_costs_no_picture(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("latents of another kind")

    monkeypatch.setattr("inference.preview.Previewer.picture", broken)
    monkeypatch.setattr(bench, "looking", True)
    model = bench.worker._residents.get("flux")
    before = model.previewer
    bench.submit(job())
    bench.finish()
    assert bench.seen.picture("j") and model.previewer is None
    model.previewer = before


def test_out_of_memory_alone_fails_that_image_and_the_next_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(job("warm-up"))
    bench.finish()
    with monkeypatch.context() as patch:
        patch.setattr(steps, "forward", _Full(calls_that_fit=0).forward)
        bench.submit(job("big"))
        bench.finish()
    failed = bench.seen.outcome("big")
    assert isinstance(failed, Failed) and isinstance(failed.error, OutOfMemory)
    for number in range(20):
        bench.submit(job(f"next-{number}"))
    bench.finish()
    assert all(bench.seen.picture(f"next-{number}") for number in range(20))


def test_steps_are_reported_with_previews_to_who_looks(bench: Bench) -> None:
    bench.submit(job("unseen"))
    bench.finish()
    assert not any(event.preview for event in bench.seen.progress("unseen"))
    bench.looking = True
    bench.submit(job(num_inference_steps=5))
    bench.finish()
    bench.looking = False
    reported = bench.seen.progress("j")
    assert [event.step for event in reported] == [0, 1, 2, 3, 4, 5]
    assert {event.steps for event in reported} == {5}
    shown = [event.preview for event in reported if event.preview is not None]
    assert shown and all(preview.size == (64, 64) for preview in shown)


def test_img2img_reports_the_steps_it_really_makes(bench: Bench) -> None:
    bench.submit(job(mode=Mode.IMG2IMG, strength=0.5, num_inference_steps=8))
    bench.finish()
    reported = bench.seen.progress("j")
    assert reported[-1].step == reported[-1].steps == 4


def test_a_broken_model_fails_its_jobs_and_no_others(catalog: Catalog, tmp_path: Any) -> None:
    broken = catalog.models["flux"].model_copy(update={"name": "broken", "source": str(tmp_path)})
    both = catalog.model_copy(update={"models": {**catalog.models, "broken": broken}})
    bench = Bench(both)
    bench.submit(job("bad", model="broken"))
    bench.submit(job("good"))
    bench.finish()
    failed = bench.seen.outcome("bad")
    assert isinstance(failed, Failed) and isinstance(failed.error, ModelFailed)
    assert "model_index.json" in str(failed.error)
    assert bench.seen.picture("good")


def test_a_receiver_that_raises_does_not_stop_the_engine(bench: Bench) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("receiver")

    bench.worker.submit(job("deaf"), {}, broken, [0])
    bench.submit(job("good"))
    bench.finish()
    assert bench.seen.picture("good")


def test_ended_images_leave_nothing_behind(bench: Bench) -> None:
    def held() -> int:
        gc.collect()
        return sum(type(one) is Running for one in gc.get_objects())

    bench.submit(job("a", seeds=(1, 2)))
    bench.submit(job("b"))
    bench.ticks(2)
    bench.worker.cancel(lambda one: one.id == "b")
    bench.finish()
    assert held() == 0
