"""The engine from outside: threads, closing, and the one answer that each image gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference.catalog import Catalog
from inference.engine import Engine
from inference.errors import EngineClosed
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.job import Job
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelState
from tests.inference.making import PICTURES, Recorder, job


class Outcomes(Recorder):
    """A recorder that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._ended:
            super().__call__(event)
            self._ended.notify_all()

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        with self._ended:
            assert self._ended.wait_for(condition, seconds), "nothing came"

    def ends(self) -> int:
        return sum(not isinstance(event, Progress) for event in self.events)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    engine = Engine(catalog, EngineSettings(devices=("cpu",)))
    engine.start()
    yield engine
    engine.close(5)


def test_many_threads_submit_and_every_image_ends_once(engine: Engine) -> None:
    seen = Outcomes()

    def submit(number: int) -> None:
        for turn in range(3):
            engine.submit(job(f"t{number}-{turn}", seeds=(1, 2)), PICTURES, seen)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.until(lambda: seen.ends() == 24)
    assert all(
        seen.picture(f"t{n}-{turn}", i) for n in range(4) for turn in range(3) for i in (0, 1)
    )


def test_only_the_wanted_indexes_are_made(engine: Engine) -> None:
    seen = Outcomes()
    engine.submit(job(seeds=(1, 2, 3)), {}, seen, indexes=[2])
    seen.until(lambda: seen.ends() == 1)
    assert seen.picture("j", 2)


def test_cancel_from_outside(engine: Engine) -> None:
    seen = Outcomes()
    engine.submit(job(num_inference_steps=100), {}, seen)
    seen.until(lambda: len(seen.progress("j")) > 2)
    engine.cancel("j")
    engine.cancel("unknown")
    seen.until(lambda: seen.ends() == 1)
    assert isinstance(seen.outcome("j"), Cancelled)


def test_closing_finishes_what_is_running_and_refuses_more(catalog: Catalog) -> None:
    engine, seen = Engine(catalog, EngineSettings(devices=("cpu",))), Outcomes()
    engine.start()
    engine.submit(job(num_inference_steps=10), {}, seen)
    engine.close(30)
    assert isinstance(seen.outcome("j"), ImageDone)
    with pytest.raises(EngineClosed):
        engine.submit(job(), {}, seen)
    assert not engine.status().devices[0].alive


def test_closing_in_a_hurry_answers_everybody(catalog: Catalog) -> None:
    engine, seen = Engine(catalog, EngineSettings(devices=("cpu",))), Outcomes()
    engine.start()
    for number in range(5):
        engine.submit(job(f"j{number}", num_inference_steps=100), {}, seen)
    seen.until(lambda: bool(seen.events))
    begin = time.monotonic()
    engine.close(0)
    assert time.monotonic() - begin < 30
    assert seen.ends() == 5


def test_status_tells_models_and_load(engine: Engine) -> None:
    seen = Outcomes()
    assert engine.status().model("flux").state is ModelState.UNLOADED
    engine.submit(job(), {}, seen)
    seen.until(lambda: seen.ends() == 1)
    status = engine.status()
    assert status.model("flux").state is ModelState.READY
    assert status.model("flux").token_budget > 0
    assert status.devices[0].alive and status.devices[0].idle_seconds < 30


def test_two_devices_take_turns_and_prefer_warm_ones(catalog: Catalog) -> None:
    engine, seen = Engine(catalog, EngineSettings(devices=("cpu", "cpu"))), Outcomes()
    engine.start()
    try:
        first: Job = job("first")
        engine.submit(first, {}, seen)
        seen.until(lambda: seen.ends() == 1)
        for number in range(3):
            engine.submit(job(f"n{number}"), {}, seen)
            seen.until(lambda number=number: seen.ends() == number + 2)  # type: ignore[misc]
        states = [device.models[0].state for device in engine.status().devices]
        assert sorted(states) == [ModelState.READY, ModelState.UNLOADED]
    finally:
        engine.close(5)


def test_a_fault_of_the_loop_answers_everybody_and_the_next_pass(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    seen = Outcomes()
    with monkeypatch.context() as patch:
        patch.setattr("inference.schedule.Schedule.pick", broken)
        engine.submit(job("a"), {}, seen)
        engine.submit(job("b"), {}, seen)
        seen.until(lambda: seen.ends() == 2)
    assert isinstance(seen.outcome("a"), Failed)
    engine.submit(job("c"), {}, seen)
    seen.until(lambda: seen.ends() == 3)
    assert seen.picture("c")


def test_a_command_that_raises_does_not_end_the_thread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, seen = threading.Event(), Outcomes()

    def broken(*_: object) -> None:
        taken.set()
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("inference.worker.Worker.command", broken)
        engine.manage("flux", ModelAction.PIN)
        assert taken.wait(30)
    engine.submit(job("a"), {}, seen)
    seen.until(lambda: seen.ends() == 1)
    assert seen.picture("a")


def test_a_preloaded_model_that_is_broken_is_failed_and_the_others_serve(
    catalog: Catalog, tmp_path: Path
) -> None:
    broken = catalog.models["flux"].model_copy(
        update={"name": "broken", "source": str(tmp_path), "preload": True}
    )
    both = catalog.model_copy(update={"models": {"broken": broken, **catalog.models}})
    engine, seen = Engine(both, EngineSettings(devices=("cpu",))), Outcomes()
    engine.start()
    engine.submit(job(), {}, seen)
    seen.until(lambda: seen.ends() == 1)
    engine.close(5)
    assert seen.picture("j")
    status = engine.status().model("broken")
    assert status.state is ModelState.FAILED and "model_index" in status.reason
