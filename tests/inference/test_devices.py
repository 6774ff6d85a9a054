"""Several devices: which model may be where, what each loads first, and one that dies or hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from inference.catalog import Catalog
from inference.devices import devices_of
from inference.engine import Engine
from inference.errors import DeviceMissing, EngineClosed, Unsupported
from inference.events import Cancelled, Failed, Progress
from inference.faults import is_lost
from inference.homes import Homes, deal
from inference.hosts.base import Submit
from inference.job import Mode
from inference.residency.reader import foreseen
from inference.residency.standing import Parts
from inference.running import nobody_looks
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelState
from inference.worker import Worker
from tests.inference.making import Bench, Recorder, job

# The same device by two names: to an engine they are two.
TWO = ("cpu", "cpu:0")


class Outcomes(Recorder):
    """Counts what has ended."""

    def ends(self) -> int:
        return sum(not isinstance(event, Progress) for event in self.events)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def entries(catalog: Catalog, **models: dict[str, Any]) -> Catalog:
    """Models like the catalog's flux, by name, with other values."""
    flux = catalog.models["flux"]
    made = {name: flux.model_copy(update={"name": name, **one}) for name, one in models.items()}
    return catalog.model_copy(update={"models": made})


@contextmanager
def running(catalog: Catalog, devices: tuple[str, ...] = TWO, **settings: Any) -> Iterator[Engine]:
    engine = Engine(catalog, EngineSettings(devices=devices, **settings))
    engine.start()
    try:
        yield engine
    finally:
        engine.close(5)


def states(engine: Engine) -> list[dict[str, ModelState]]:
    return [{one.name: one.state for one in dev.models} for dev in engine.status().devices]


def sized(**sizes: int) -> dict[str, Parts]:
    """Models of one part each, of so many bytes."""
    return {name: {name: size} for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("homes", "dealt"),
    [
        ({"a": (0, 1, 2)}, ["a", "a", "a"]),
        ({"a": (0, 1), "b": (0, 1)}, ["ab", "ba"]),
        # cards that hold two of them hold all four
        (dict.fromkeys("abcd", (0, 1)), ["acbd", "bdac"]),
        # and two, where a card holds one, are on two cards each
        (dict.fromkeys("ab", (0, 1, 2, 3)), ["ab", "ba", "ab", "ba"]),
        ({"a": (0,), "b": (0, 1), "c": (0, 1)}, ["acb", "bc"]),
        ({}, ["", "", ""]),
    ],
)
def test_each_device_starts_with_its_share_where_nobody_knows_their_sizes(
    homes: dict[str, tuple[int, ...]], dealt: list[str]
) -> None:
    assert ["".join(one) for one in deal(homes, {}, len(dealt))] == dealt


@pytest.mark.parametrize(
    ("sizes", "dealt"),
    [
        # by count it would be a and c against b and d: 16 bytes against 4
        ({"a": 10, "b": 2, "c": 6, "d": 2}, ["acbd", "cbda"]),
        ({"a": 1, "b": 9, "c": 5}, ["bca", "cab"]),
        # what lies in RAM takes no room
        ({"a": 0, "b": 1, "c": 2}, ["cba", "bac"]),
    ],
)
def test_shares_are_of_bytes_and_the_largest_comes_first(
    sizes: dict[str, int], dealt: list[str]
) -> None:
    found = deal(dict.fromkeys(sizes, (0, 1)), sized(**sizes), 2)
    assert ["".join(one) for one in found] == dealt


def test_a_size_that_nobody_knows_is_the_median_of_the_others() -> None:
    parts: dict[str, Parts] = {**sized(large=90, middle=20, small=10), "unknown": {}}
    homes = dict.fromkeys(("unknown", "large", "middle", "small"), (0, 1))
    assert [one[:3] for one in deal(homes, parts, 2)] == [
        ["large", "unknown", "middle"],
        ["unknown", "middle", "small"],
    ]


def test_parts_that_are_on_a_device_already_add_nothing() -> None:
    text: Parts = {"text": 50}
    parts: dict[str, Parts] = {
        "a": {"a": 60, **text},
        "b": {"b": 40, **text},
        "c": {"c": 30},
        "d": {"d": 25},
    }
    dealt = deal(dict.fromkeys("abcd", (0, 1)), parts, 2)
    assert [one[:2] for one in dealt] == [["a", "d"], ["b", "c"]]
    # b is ten bytes more where a is, and sixty more elsewhere
    beside: dict[str, Parts] = {"a": {"a": 10, **text}, "b": {"b": 10, **text}, "c": {"c": 65}}
    assert deal(dict.fromkeys("abc", (0, 1)), beside, 2) == [["c", "a", "b"], ["a", "b", "c"]]


def test_what_is_pinned_is_there_before_any_is_dealt() -> None:
    homes = {"a": (0, 1), "b": (0, 1), "pin": (1,), "both": (0, 1)}
    parts = sized(a=30, b=20, pin=40, both=10)
    assert deal(homes, parts, 2, ["pin", "both"]) == [
        ["both", "a", "b"],
        ["pin", "both", "a", "b"],
    ]


def test_a_device_serves_what_may_be_there_and_what_stays_comes_first(catalog: Catalog) -> None:
    found = entries(
        catalog,
        plain={},
        one={"preload": True},
        two={"preload": True},
        always={"pin": True},
        own={"devices": ("cuda:1",)},
        both={"devices": ("cuda:1", "cuda:0"), "pin": True, "preload": True},
    )
    homes = Homes(found, ("cuda:0", "cuda:1"))
    served = [[*homes.catalog_of(device).models] for device in (0, 1)]
    assert served[0] == ["always", "both", "one", "two", "plain"]
    assert served[1] == ["always", "both", "two", "one", "plain", "own"]
    assert homes.homeless() == {}
    assert (homes.of("own"), homes.of("plain"), homes.of("unknown")) == ((1,), (0, 1), (0, 1))


def test_devices_are_those_named_or_every_card_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(*names: str, cards: int) -> tuple[str, ...]:
        monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
        return devices_of(names)

    assert named(cards=0) == ("cpu",)
    assert named(cards=2) == ("cuda:0", "cuda:1")
    assert named("cuda:1", "cpu", cards=2) == ("cuda:1", "cpu")
    assert named("cpu", "cpu", cards=0) == ("cpu", "cpu")
    for wrong in ("cuda:2", "cuda", "meta", "foo"):
        with pytest.raises(DeviceMissing, match=f"no {wrong} here, only cuda:0, cuda:1, cpu"):
            named("cpu", wrong, cards=2)


def test_an_engine_is_not_made_for_a_device_that_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(DeviceMissing, match="cuda:99"):
        Engine(catalog, EngineSettings(devices=("cpu", "cuda:99")))


def test_devices_of_one_name_are_all_meant_by_it(catalog: Catalog) -> None:
    homes = Homes(entries(catalog, a={"devices": ("cpu",)}), ("cpu", "mps", "cpu"))
    assert homes.of("a") == homes.named("a", "cpu") == (0, 2)


def test_a_name_of_no_device_is_told_with_those_there_are(catalog: Catalog) -> None:
    wrong = entries(catalog, a={"devices": ("cpu", "cuda:7")}, b={"devices": ("cpu",)})
    homes = Homes(wrong, TWO)
    told = "a is to be on cuda:7, which is not here; the devices are: cpu, cpu:0"
    assert homes.homeless() == {"a": told}
    for model, device, field, words in (
        ("a", None, "model", told),
        ("b", "cuda:7", "device", "no device 'cuda:7' here; the devices are: cpu, cpu:0"),
        ("b", "cpu:0", "device", "'b' is served on cpu alone"),
    ):
        with pytest.raises(Unsupported) as refused:
            homes.named(model, device)
        assert (refused.value.field, str(refused.value)) == (field, words)


def test_requests_loads_and_pins_stay_on_the_devices_of_the_entry(catalog: Catalog) -> None:
    found = entries(
        catalog,
        here={"devices": ("cpu",), "modes": (Mode.GENERATE,)},
        there={"devices": ("cpu:0",), "modes": (Mode.GENERATE,), "preload": True},
        lost={"devices": ("cuda:3",), "preload": True, "pin": True},
    )
    seen = Outcomes()
    with running(found) as engine:
        failed = {"lost": ModelState.FAILED}
        assert [one.keys() for one in states(engine)] == [{"here", "lost"}, {"there", "lost"}]
        assert "the devices are: cpu, cpu:0" in engine.status().model("lost").reason
        for number in range(12):
            engine.submit(job(f"{number}", "here", num_inference_steps=1), {}, seen)
        engine.submit(job("lost", "lost", seeds=(1, 2)), {}, seen)
        assert isinstance(seen.outcome("lost", 1), Failed)
        until(lambda: seen.ends() == 14)
        assert all(seen.picture(f"{number}") for number in range(12))
        until(lambda: states(engine)[1] == {"there": ModelState.READY, **failed})
        with pytest.raises(Unsupported, match="on cpu alone"):
            engine.manage("here", ModelAction.LOAD, "cpu:0")
        with pytest.raises(Unsupported, match="cuda:3"):
            engine.manage("lost", ModelAction.LOAD)
        engine.manage("there", ModelAction.UNLOAD)
        until(lambda: states(engine)[1]["there"] is ModelState.UNLOADED)
        assert states(engine)[0] == {"here": ModelState.READY, **failed}


def test_an_engine_weighs_what_it_deals_by_the_files(
    catalog: Catalog,
) -> None:
    large = catalog.models["sdxl"].model_copy(update={"preload": True, "name": "large"})
    quick = {"preload": True, "modes": (Mode.GENERATE,)}
    found = entries(catalog, a=quick, b={**quick, "dtype": "bfloat16"}, gone=quick)
    models = {**found.models, "large": large}
    models["gone"] = models["gone"].model_copy(update={"source": "owner/not-here"})
    engine = Engine(found.model_copy(update={"models": models}), EngineSettings(devices=TWO))
    sizes = {name: sum(foreseen(spec, "cpu").values()) for name, spec in models.items()}
    assert sizes["a"] == 2 * sizes["b"] > sizes["gone"] == 0
    wanted = sorted(("a", "b", "large"), key=lambda name: -sizes[name])
    served = [[*engine._homes.catalog_of(device).models] for device in (0, 1)]
    assert served[0][0] == wanted[0] and served[1][0] == wanted[1]
    assert {"a", "b", "gone", "large"} == {*served[0]} == {*served[1]}


def test_preloads_spread_where_a_device_holds_one_of_them(catalog: Catalog) -> None:
    quick = {"modes": (Mode.GENERATE,), "preload": True}
    found = entries(catalog, a=quick, b=quick)
    weights = max(one.weight_bytes for one in Bench(found).worker.status(True).models)
    with running(found, device_memory_bytes=int(weights * 1.5)) as engine:
        until(lambda: states(engine)[0].get("a") is ModelState.READY)
        until(lambda: states(engine)[1].get("b") is ModelState.READY)
        assert ModelState.READY not in (states(engine)[0]["b"], states(engine)[1]["a"])
        # an operator's wish takes the place of another, there alone
        engine.manage("b", ModelAction.PIN, "cpu")
        until(lambda: states(engine)[0]["b"] is ModelState.READY)
        assert states(engine)[1] == {"b": ModelState.READY, "a": ModelState.UNLOADED}
        pinned = [[one.name for one in dev.models if one.pinned] for dev in engine.status().devices]
        assert pinned == [["b"], []]


class Ill(BaseException):
    """Such as a panic of a compiled library."""


def ill_from(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, device: int, symptom: Callable[[], None]
) -> None:
    """From here on a device has a symptom when there is a picture to work on."""
    worker, tick = engine._hosts[device]._worker, Worker.tick  # type: ignore[attr-defined]

    def ticked(self: Worker) -> None:
        if self is worker and self.busy:
            symptom()
        tick(self)

    monkeypatch.setattr(Worker, "tick", ticked)


def panic() -> None:
    raise Ill


def fault() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_what_a_dead_device_had_is_cancelled_and_the_next_go_elsewhere(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, seen = threading.Event(), Outcomes()

    def panic_later() -> None:
        given.wait(60)
        raise Ill

    with running(entries(catalog, m={"modes": (Mode.GENERATE,)})) as engine:
        ill_from(monkeypatch, engine, 0, panic_later)
        for number in range(4):
            engine.submit(job(f"{number}", "m", seeds=(1, 2)), {}, seen, indexes=[number % 2])
        given.set()
        until(lambda: seen.ends() == 4)
        assert {type(seen.outcome(f"{n}", n % 2)) for n in range(4)} == {Cancelled}
        until(lambda: not engine.status().devices[0].alive)
        for number in range(10, 13):
            engine.submit(job(f"{number}", "m"), {}, seen)
        engine.cancel("10")
        until(lambda: seen.ends() == 7)
        assert seen.picture("11") and seen.picture("12")
        assert engine._balance._unfinished[0].total() == 0
        late = Submit(job("late", "m", seeds=(1, 2)), {}, seen, (0, 1), nobody_looks)
        engine._hosts[0].send(late)
        assert {type(seen.outcome("late", index)) for index in (0, 1)} == {Cancelled}


def test_a_card_that_answers_everything_with_an_error_fails_no_picture(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.worker.is_lost", lambda device: device == "cpu")
    broken, seen = entries(catalog, m={"modes": (Mode.GENERATE,)}), Outcomes()
    with running(broken) as engine:
        ill_from(monkeypatch, engine, 0, fault)
        engine.submit(job("a", "m", seeds=(1, 2)), {}, seen)
        until(lambda: seen.ends() == 2)
        assert {type(seen.outcome("a", index)) for index in (0, 1)} == {Cancelled}
        until(lambda: not engine.status().devices[0].alive)
        engine.submit(job("b", "m"), {}, seen)
        until(lambda: seen.ends() == 3)
        assert seen.picture("b")


def test_a_device_is_lost_by_a_fault_and_not_by_want_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(error: Exception) -> Callable[..., None]:
        def zeros(*_: Any, **__: Any) -> None:
            raise error

        return zeros

    assert not is_lost("cpu")
    for error, lost in (
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("no room"), False),
    ):
        monkeypatch.setattr("torch.zeros", refused(error))
        assert is_lost("cuda:0") is lost
        assert not is_lost("cpu")


def test_without_any_device_left_nothing_is_taken(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = {"devices": ("cpu",)}, {"devices": ("cpu:0",)}
    seen = Outcomes()
    with running(entries(catalog, a=here, b=there)) as engine:
        ill_from(monkeypatch, engine, 0, panic)
        engine.submit(job("a", "a"), {}, seen)
        until(lambda: seen.ends() == 1)
        until(lambda: not engine.status().devices[0].alive)
        engine.submit(job("again", "a"), {}, seen)
        failed = seen.outcome("again")
        assert isinstance(failed, Failed) and "every device of a has stopped" in str(failed.error)
        monkeypatch.undo()
        ill_from(monkeypatch, engine, 1, panic)
        engine.submit(job("b", "b"), {}, seen)
        until(lambda: seen.ends() == 3)
        until(lambda: not engine.status().devices[1].alive)
        with pytest.raises(EngineClosed, match="every device"):
            engine.submit(job("more", "b"), {}, seen)


def test_a_device_that_hangs_gets_no_more_until_it_goes_on(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, seen = threading.Event(), Outcomes()
    hung = threading.Event()

    def hang() -> None:
        hung.set()
        go_on.wait(60)

    found = entries(catalog, m={"modes": (Mode.GENERATE,)})
    with running(found, worker_silence_seconds=2.0) as engine:
        ill_from(monkeypatch, engine, 0, hang)
        engine.submit(job("held", "m"), {}, seen)
        assert hung.wait(30)
        until(lambda: engine.status().devices[0].idle_seconds > 2.0)
        try:
            for number in range(12):
                engine.submit(job(f"{number}", "m", num_inference_steps=1), {}, seen)
            until(lambda: seen.ends() == 12)
            assert all(seen.picture(f"{number}") for number in range(12))
        finally:
            go_on.set()
        until(lambda: seen.ends() == 13)
        assert seen.picture("held")
