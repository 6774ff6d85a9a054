"""LoRAs by address: fetched through the guard, checked by what they hold, kept within bounds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.errors import BadRequest, Overloaded, TooLarge, Unavailable
from api.loras import FetchedLoras
from api.outbound import Outbound
from api.services import Services
from api.settings import Settings
from api.store.housekeeping import HousekeepingStore
from api.tasks import TaskState
from inference.errors import Unsupported
from inference.job import ImageRequest, Job, Lora
from tests.api.conftest import Serve
from tests.api.making import job_of, submitted
from tests.api.receivers import Answer, Receiver, hangs, pours, says
from tests.api.scripted import ScriptedEngine

ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


def tensors(count: int = 2, values: int = 10, **changes: Any) -> bytes:
    """A safetensors file, made by hand as its format says."""
    listed: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for number in range(count):
        begin = number * values * 4
        listed[f"layer{number}.lora_A.weight"] = {
            "dtype": "F32",
            "shape": [values],
            "data_offsets": [begin, begin + values * 4],
        }
    header = json.dumps(listed | changes).encode()
    return len(header).to_bytes(8, "little") + header + bytes(count * values * 4)


def with_loras(*names: str) -> Job:
    return job_of("t", loras=tuple(Lora(name=name, strength=1.0) for name in names))


def called(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    client = Outbound(("127.0.0.0/8",))
    yield client
    await client.close()


@pytest.fixture
def needed() -> set[str]:
    """What unfinished tasks hold."""
    return set()


Kept = Callable[..., FetchedLoras]


@pytest.fixture
def kept(tmp_path: Path, outbound: Outbound, needed: set[str], monkeypatch: Any) -> Kept:
    """`kept(**settings)`, always on the same folder; local addresses count as addresses."""
    monkeypatch.setattr("api.loras.is_address", lambda name: name.startswith("http"))

    async def ask() -> set[str]:
        return needed

    def make(**settings: Any) -> FetchedLoras:
        return FetchedLoras(
            tmp_path / "loras",
            settings=Settings(**settings),
            outbound=outbound,
            needed=ask,
            threads=ThreadPoolExecutor(1),
        )

    return make


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "loras").iterdir())


async def fetched(loras: FetchedLoras, data: bytes) -> str:
    async with Receiver([says(200, data)]) as receiver:
        (lora,) = (await loras.fetch(with_loras(receiver.url))).loras
        return lora.name


async def test_the_log_tells_when_one_begins_and_how_large_it_was(kept: Kept) -> None:
    data = tensors()
    with structlog.testing.capture_logs() as logs:
        name = await fetched(kept(), data)
    begun, ended = logs
    assert (begun["event"], ended["event"]) == ("lora_fetching", "lora_fetched")
    assert begun["host"] == ended["host"] == "127.0.0.1"
    assert (ended["name"], ended["bytes"]) == (name, len(data)) and ended["seconds"] >= 0


async def test_an_address_becomes_the_name_of_what_lay_there(kept: Kept, tmp_path: Path) -> None:
    data, loras = tensors(), kept()
    async with Receiver([says(200, data)]) as receiver:
        job = await loras.fetch(with_loras("ink", receiver.url))
    assert [lora.name for lora in job.loras] == ["ink", called(data)]
    assert [lora.path for lora in job.loras] == [None, None]
    first, second = loras.placed(job).loras
    assert first.path is None and second.path is not None
    assert Path(second.path).read_bytes() == data
    assert files(tmp_path) == [f"{called(data)[7:]}.safetensors"]
    assert (tmp_path / "loras").stat().st_mode & 0o777 == 0o700


async def test_an_address_is_not_asked_for_every_request(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = kept()
    async with Receiver([says(200, tensors(1)), says(200, tensors(2))]) as receiver:
        names = [(await loras.fetch(with_loras(receiver.url))).loras[0].name for _ in range(3)]
        assert names == [called(tensors(1))] * 3
        assert receiver.connections == 1
        # what was swept away meanwhile is fetched again, and so is what may have changed
        for path in (tmp_path / "loras").iterdir():
            path.unlink()
        assert (await loras.fetch(with_loras(receiver.url))).loras[0].name == called(tensors(2))
        monkeypatch.setattr("api.loras.KNOWN_SECONDS", 0)
        await loras.fetch(with_loras(receiver.url))
        assert receiver.connections == 3


async def test_a_private_address_is_refused_before_anything_is_fetched(kept: Kept) -> None:
    loras = kept()
    loras.check(with_loras("ink", "http://127.0.0.1:1/x").loras)
    with pytest.raises(BadRequest, match="private") as refused:
        loras.check(with_loras("ink", "http://10.0.0.1/x").loras)
    assert refused.value.field == "loras"


async def test_two_addresses_of_one_file_are_told(kept: Kept) -> None:
    async with Receiver([says(200, tensors())]) as receiver:
        with pytest.raises(BadRequest, match="the same file") as refused:
            await kept().fetch(with_loras(receiver.url, receiver.url + "?again"))
        assert refused.value.field == "loras"


WRONG = {
    "nothing": b"",
    "little": b"\x08\0\0",
    "a page": b"<html>sign in</html>",
    "a pickle": b"\x80\x05" + bytes(50),
    "a zip": b"PK\x03\x04" + bytes(50),
    "no JSON": (20).to_bytes(8, "little") + b"{" * 20,
    "a list": (2).to_bytes(8, "little") + b"[]",
    "no tensor": (2).to_bytes(8, "little") + b"{}",
    "deep": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "cut short": tensors()[:-1],
    "more than it says": tensors() + b"\0",
    "an overlap": tensors(extra={"data_offsets": [0, 40]}),
    "a gap": tensors(1, extra={"data_offsets": [41, 42]}) + b"\0\0",
    "no numbers": tensors(extra={"data_offsets": ["0", "40"]}),
    "three numbers": tensors(extra={"data_offsets": [0, 1, 2]}),
    "endless numbers": tensors(0, extra={"data_offsets": [0, float("inf")]}),
    "no offsets": tensors(extra={"dtype": "F32"}),
    "a header without end": (1 << 60).to_bytes(8, "little") + bytes(100),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_no_whole_safetensors_file_is_refused(
    kept: Kept, tmp_path: Path, what: str
) -> None:
    with pytest.raises(BadRequest, match="the address leads to") as refused:
        await fetched(kept(), WRONG[what])
    assert refused.value.field == "loras"
    assert ("pickled" in str(refused.value)) is (what in ("a pickle", "a zip"))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (pours(ENDLESS, bytes(65536)), TooLarge),
        (says(404), BadRequest),
        (hangs, BadRequest),
        (says(302, location="http://169.254.169.254/"), BadRequest),
    ],
)
async def test_what_does_not_come_leaves_nothing(
    kept: Kept, tmp_path: Path, answer: Answer, error: type[Exception]
) -> None:
    loras = kept(max_lora_bytes=1_000_000, lora_fetch_seconds=0.5)
    async with Receiver([answer]) as receiver:
        with pytest.raises(error) as refused:
            await loras.fetch(with_loras(receiver.url))
    assert getattr(refused.value, "field", None) == "loras"
    assert files(tmp_path) == []


async def test_what_a_crash_left_half_fetched_goes(kept: Kept, tmp_path: Path) -> None:
    """But not what another server may be fetching just now."""
    (tmp_path / "loras").mkdir()
    for part in ("old.part", "young.part"):
        (tmp_path / "loras" / part).write_bytes(b"half")
    os.utime(tmp_path / "loras" / "old.part", (time.time() - 601, time.time() - 601))
    name = await fetched(kept(), tensors())
    assert files(tmp_path) == [f"{name[7:]}.safetensors", "young.part"]


async def test_a_full_disk_is_no_fault_of_the_address(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        await fetched(kept(), tensors())
    assert files(tmp_path) == []


class TestRoom:
    ONE = len(tensors())

    def age(self, tmp_path: Path, *names: str) -> None:
        """Last asked for long ago, the first named the longest."""
        for number, name in enumerate(names):
            when = time.time() - 10_000 + number
            os.utime(tmp_path / "loras" / f"{name[7:]}.safetensors", (when, when))

    async def filled(self, loras: FetchedLoras, count: int) -> list[str]:
        data = [tensors(__metadata__={"number": str(number)}) for number in range(count)]
        return [await fetched(loras, one) for one in data]

    async def test_the_one_that_was_asked_for_longest_ago_goes(
        self, kept: Kept, tmp_path: Path
    ) -> None:
        loras = kept(kept_lora_bytes=3 * self.ONE)
        first, second, third = await self.filled(loras, 3)
        self.age(tmp_path, second, first, third)
        name = await fetched(loras, tensors())
        assert set(files(tmp_path)) == {f"{one[7:]}.safetensors" for one in (first, third, name)}

    async def test_what_an_unfinished_task_holds_stays(
        self, kept: Kept, tmp_path: Path, needed: set[str]
    ) -> None:
        loras = kept(kept_lora_bytes=2 * self.ONE)
        first, second = await self.filled(loras, 2)
        self.age(tmp_path, first, second)
        needed.add(first)
        name = await fetched(loras, tensors())
        assert set(files(tmp_path)) == {f"{one[7:]}.safetensors" for one in (first, name)}
        needed.add(name)
        self.age(tmp_path, name)
        with pytest.raises(Overloaded):
            await fetched(loras, tensors(1))
        assert len(files(tmp_path)) == 2

    async def test_what_has_just_come_stays(self, kept: Kept, tmp_path: Path) -> None:
        loras = kept(kept_lora_bytes=2 * self.ONE)
        names = await self.filled(loras, 2)
        with pytest.raises(Overloaded):
            await fetched(loras, tensors())
        assert files(tmp_path) == sorted(f"{name[7:]}.safetensors" for name in names)

    async def test_what_is_there_already_takes_no_more_room(
        self, kept: Kept, tmp_path: Path
    ) -> None:
        loras = kept(kept_lora_bytes=2 * self.ONE)
        names = await self.filled(loras, 2)
        again = kept(kept_lora_bytes=2 * self.ONE)
        assert await self.filled(again, 2) == names


class TestInTheService:
    @pytest.fixture
    async def services(
        self, serve: Serve, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Services]:
        models.write_text(models.read_text().replace("price: 3", "price: 3\n    loras_from: [url]"))
        for module in ("api.loras", "inference.loras.spec"):
            monkeypatch.setattr(f"{module}.is_address", lambda name: name.startswith("http://127"))
        async with serve(allowed_targets=("127.0.0.0/8",)) as running:
            yield running

    def wish(self, url: str) -> ImageRequest:
        return ImageRequest(model="paint", prompt="x", loras=(Lora(name=url, strength=0.5),))

    async def test_the_engine_gets_a_path_and_the_task_a_name(
        self, services: Services, engine: ScriptedEngine, tmp_path: Path
    ) -> None:
        seen: list[Job] = []
        submit = engine.submit

        def watched(job: Job, *rest: Any) -> None:
            seen.append(job)
            submit(job, *rest)

        engine.submit = watched  # type: ignore[method-assign]
        async with Receiver([says(200, tensors())]) as receiver:
            task = await submitted(services, self.wish(receiver.url))
        done = await services.darkroom.wait(task.id, timeout_seconds=30)
        assert done.state is TaskState.SUCCEEDED
        assert done.job.loras == (Lora(name=called(tensors()), strength=0.5),)
        assert done.request.loras[0].name == receiver.url
        (lora,) = seen[0].loras
        assert lora.path == str(tmp_path / "data" / "loras" / f"{lora.name[7:]}.safetensors")

    async def test_what_is_refused_leaves_no_task(self, services: Services) -> None:
        async with Receiver([says(200, b"<html>")]) as receiver:
            with pytest.raises(BadRequest) as refused:
                await submitted(services, self.wish(receiver.url))
        assert refused.value.field == "loras"
        for url in ("http://127.0.0.1:1/", "http://10.0.0.1/x"):
            with pytest.raises((BadRequest, Unsupported)) as refused:
                await submitted(services, self.wish(url))
            assert refused.value.field == "loras"
        assert (await services.darkroom.queue()).queued_tasks == 0

    async def test_a_waiting_task_holds_its_file(
        self, services: Services, engine: ScriptedEngine
    ) -> None:
        engine.gate.clear()
        held = HousekeepingStore(services.store._database)
        async with Receiver([says(200, tensors())]) as receiver:
            task = await submitted(services, self.wish(receiver.url))
            plain = await submitted(services, replace(self.wish(""), loras=()))
        assert await held.fetched_loras() == {called(tensors())}
        engine.gate.set()
        for one in (task, plain):
            await services.darkroom.wait(one.id, timeout_seconds=30)
        async with asyncio.timeout(60):
            while await held.fetched_loras():
                await asyncio.sleep(0.01)
