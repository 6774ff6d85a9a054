"""Which of several devices a picture goes to, and what a forward that was too large teaches."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inference.balance import COMING_IMAGES, Balance
from inference.caps import PATIENCE_FORWARDS
from inference.catalog import Catalog
from inference.engine import Engine
from inference.events import Event, ImageDone, Progress
from inference.settings import EngineSettings
from inference.status import DeviceStatus, ModelState, ModelStatus
from tests.inference.making import Bench, Recorder, difference, job, plain


def device(
    state: ModelState = ModelState.UNLOADED,
    alive: bool = True,
    idle_seconds: float = 0.0,
    is_barred: bool = False,
) -> DeviceStatus:
    return DeviceStatus(
        device="cpu",
        name="cpu",
        alive=alive,
        idle_seconds=idle_seconds,
        running_images=0,
        waiting_images=0,
        models=tuple(ModelStatus(name=name, state=state, is_barred=is_barred) for name in "ab"),
    )


def test_what_was_handed_over_counts_at_once_and_until_it_ends() -> None:
    balance, ready = Balance(2, 60), device(ModelState.READY)
    balance.hand(0, "a", 3)
    assert [balance.burden(one, ready, "a") for one in (0, 1)] == [3, 0]
    for _ in range(3):
        balance.end(0, "a")
    assert balance.burden(0, ready, "a") == 0


@pytest.mark.parametrize(
    ("state", "cost"),
    [
        (ModelState.READY, 0),
        (ModelState.LOADING, 0),
        (ModelState.IN_RAM, COMING_IMAGES),
        (ModelState.UNLOADED, COMING_IMAGES),
    ],
)
def test_a_model_that_would_have_to_come_costs(state: ModelState, cost: int) -> None:
    balance = Balance(1, 60)
    assert balance.burden(0, device(state), "a") == cost
    balance.hand(0, "a", 1)
    assert balance.burden(0, device(state), "a") == 1, "it comes for that one already"
    assert balance.burden(0, device(state), "b") == 1 + cost


def test_where_it_fails_or_nobody_works_is_the_last_choice() -> None:
    balance = Balance(1, 60)
    balance.hand(0, "b", 1000)
    busy = balance.burden(0, device(), "a")
    assert busy < balance.burden(0, device(ModelState.FAILED, is_barred=True), "a")
    assert busy == balance.burden(0, device(ModelState.FAILED), "a"), "it may be tried again"
    assert busy < balance.burden(0, device(alive=False), "a")
    assert busy < balance.burden(0, device(idle_seconds=61), "a")
    assert busy == balance.burden(0, device(idle_seconds=59), "a")


class Held(Recorder):
    """Remembers on which thread each picture was made; holds every device at its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.done = threading.Semaphore(0)
        self.threads: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.go.wait(60)
            return
        super().__call__(event)
        self.threads[str(threading.get_ident())] += isinstance(event, ImageDone)
        self.done.release()


def test_a_burst_is_spread_over_all_devices(catalog: Catalog) -> None:
    seen, count = Held(), 4 * COMING_IMAGES
    engine = Engine(catalog, EngineSettings(devices=("cpu", "cpu")))
    engine.start()
    try:
        for number in range(count):
            engine.submit(job(f"j{number}", num_inference_steps=1), {}, seen)
        seen.go.set()
        for _ in range(count):
            assert seen.done.acquire(timeout=60)
        assert [*seen.threads.values()] == [count // 2, count // 2]
        ready = device(ModelState.READY)
        assert [engine._balance.burden(one, ready, "a") for one in (0, 1)] == [0, 0]
    finally:
        seen.go.set()
        engine.close(10)


class SmallCard:
    """Stands before a denoiser's forward, and has memory for so many rows."""

    def __init__(self, forward: Any, rows: int) -> None:
        self.forward, self.rows = forward, rows
        self.asked: list[int] = []

    def __call__(self, **arguments: Any) -> Any:
        rows = len(arguments["hidden_states"])
        self.asked.append(rows)
        if rows > self.rows:
            raise torch.OutOfMemoryError(f"no room for {rows} rows")
        return self.forward(**arguments)


@pytest.fixture
def bench(catalog: Catalog) -> Iterator[Bench]:
    made = Bench(catalog)
    made.submit(job("warm-up"))
    made.finish()
    yield made
    torch.set_grad_enabled(True)


def small(bench: Bench, rows: int) -> SmallCard:
    """From here on its flux has memory for so many rows, and would take sixteen."""
    model = bench.worker._residents.usable("flux")
    assert model is not None
    attached = model.attached[0]
    attached.budget_tokens = 16 * 16
    card = SmallCard(attached.forward, rows)
    attached.forward = card
    return card


def test_what_was_too_much_once_is_not_tried_again(
    bench: Bench, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = small(bench, 3)
    bench.submit(job("a", seeds=tuple(range(8))))
    bench.finish()
    assert card.asked[:3] == [8, 4, 2]
    refused = [rows for rows in card.asked if rows > 3]
    assert refused == [8, 4]
    pick, picked = bench.worker._pick, list[int]()

    def counted() -> Any:
        batch = pick()
        if batch and batch[0].call is not None and "Flux" in str(type(batch[0].call.target.module)):
            picked.append(len(batch))
        return batch

    monkeypatch.setattr(bench.worker, "_pick", counted)
    for number in range(20):
        bench.submit(job(f"n{number}", seeds=(1, 2, 3)))
    bench.finish()
    assert max(picked) == 2, "others wait while what was picked is split"
    assert [rows for rows in card.asked if rows > 3] == refused
    assert max(card.asked[-20:]) > 1, "batches were given up altogether"
    alone = plain(catalog.models["flux"], job(seeds=(1, 2, 3)), 2)
    for number in range(20):
        assert difference(bench.seen.picture(f"n{number}", 2), alone) <= 1


def test_another_size_is_not_held_back_and_a_model_that_came_again_is(bench: Bench) -> None:
    card = small(bench, 2)
    bench.submit(job("a", seeds=(1, 2, 3, 4)))
    bench.finish()
    assert card.asked[0] == 4 and set(card.asked[1:]) <= {1, 2}
    card.rows = 4
    bench.submit(job("b", seeds=(1, 2, 3, 4), width=32, height=32))
    bench.finish()
    assert 4 in card.asked[1:]
    bench.worker._residents._all["flux"].drop([])
    bench.submit(job("c"))
    bench.finish()
    again = small(bench, 16)
    bench.submit(job("d", seeds=(1, 2, 3, 4)))
    bench.finish()
    assert set(again.asked) <= {1, 2}


def test_a_shortage_that_passes_is_forgotten(bench: Bench) -> None:
    card = small(bench, 2)
    bench.submit(job("a", seeds=(1, 2, 3, 4)))
    bench.finish()
    assert card.asked.count(4) == 1
    card.rows = 16
    bench.submit(job("b", seeds=(1, 2), num_inference_steps=PATIENCE_FORWARDS))
    bench.finish()
    assert max(card.asked[card.asked.index(4) + 1 :]) == 2
    bench.submit(job("c", seeds=(1, 2, 3, 4)))
    bench.finish()
    assert card.asked[-4:] == [4, 4, 4, 4]
