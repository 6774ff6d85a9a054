"""Whether a server is ready: what it says of its storage and of its dispatcher is true."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from api.checks import OK, STORAGE_EVERY_SECONDS, STORAGE_SECONDS, StorageCheck
from api.errors import Unavailable
from api.services import Services
from api.storage import LocalStorage, S3Storage, Storage
from api.store import Holding, Store
from tests.api.conftest import Serve
from tests.api.s3server import S3Server
from tests.api.scripted import ScriptedEngine
from tests.api.test_dispatcher import submit
from tests.api.test_s3 import broken

SECONDS = 30


class Asked(LocalStorage):
    """Counts how often it is asked, and answers as it is told."""

    def __init__(self, folder: Path, answer: Callable[[], Awaitable[None]]) -> None:
        super().__init__(folder)
        self.times = 0
        self._answer = answer

    async def reach(self) -> None:
        self.times += 1
        await self._answer()


async def well() -> None: ...


def check_of(storage: Storage) -> tuple[StorageCheck, list[float]]:
    """A check with a clock in the test's hand."""
    seconds = [100.0]
    return StorageCheck(storage, lambda: seconds[0]), seconds


async def test_a_folder_that_takes_no_files_is_not_ready(
    services: Services, tmp_path: Path
) -> None:
    assert (await services.darkroom.health()).checks["storage"] == OK
    folder, aside = tmp_path / "data" / "objects", tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("in its place")
    services.darkroom._checks._storage._asked_at -= STORAGE_EVERY_SECONDS

    health = await services.darkroom.health()

    assert health.checks["storage"] == "the storage cannot write now: Not a directory"
    assert not health.ready and str(tmp_path) not in str(health.checks)
    folder.unlink()
    aside.rename(folder)
    assert not (await services.darkroom.health()).ready, "for some seconds it is not asked again"
    services.darkroom._checks._storage._asked_at -= STORAGE_EVERY_SECONDS
    assert (await services.darkroom.health()).checks["storage"] == OK
    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_many_who_look_ask_once_in_some_seconds(tmp_path: Path) -> None:
    storage = Asked(tmp_path, well)
    check, seconds = check_of(storage)
    assert await asyncio.gather(*(check.found() for _ in range(50))) == [OK] * 50
    seconds[0] += STORAGE_EVERY_SECONDS - 0.001
    assert (await check.found(), storage.times) == (OK, 1)
    seconds[0] += 0.001
    assert (await check.found(), storage.times) == (OK, 2)


async def test_a_storage_that_hangs_is_waited_for_briefly_and_asked_once(tmp_path: Path) -> None:
    may = asyncio.Event()

    async def hang() -> None:
        await may.wait()

    storage = Asked(tmp_path, hang)
    check, seconds = check_of(storage)
    begun = time.monotonic()
    assert await check.found() == "no answer within 2 s"
    assert STORAGE_SECONDS * 0.9 <= time.monotonic() - begun < SECONDS
    seconds[0] += 60
    begun = time.monotonic()
    assert await check.found() == "no answer within 2 s"
    assert time.monotonic() - begun < STORAGE_SECONDS * 0.9, "it was known already"
    assert storage.times == 1
    may.set()
    await asyncio.sleep(0)
    assert (await check.found(), storage.times) == (OK, 2)


async def test_what_hangs_holds_up_no_end(tmp_path: Path) -> None:
    check, _ = check_of(Asked(tmp_path, asyncio.Event().wait))  # type: ignore[arg-type]
    await check.close()
    asking = asyncio.create_task(check.found())
    await asyncio.sleep(0.01)
    async with asyncio.timeout(SECONDS):
        await check.close()
        assert check._asking is not None and check._asking.cancelled()
    asking.cancel()


async def test_a_fault_of_the_check_is_no_error_of_the_probe(tmp_path: Path) -> None:
    async def fault() -> None:
        raise ZeroDivisionError("secret")

    check, _ = check_of(Asked(tmp_path, fault))
    found = await check.found()
    assert found != OK and "secret" not in found


async def test_a_bucket_is_reached_by_one_request(s3_server: S3Server) -> None:
    await s3_server.storage("x").reach()
    for changes, cause in (
        ({"secret_access_key": "wrong"}, "the secret access key is wrong"),
        ({"access_key_id": "nobody"}, "the access key id is not known"),
        ({"endpoint": "http://127.0.0.1:1", "timeout_seconds": 2}, "cannot be reached"),
    ):
        with pytest.raises(Unavailable, match=cause):
            await s3_server.storage("x", **changes).reach()
    nowhere = S3Storage("s3://no-such-bucket/x", endpoint=s3_server.endpoint)
    with pytest.raises(Unavailable):
        await nowhere.reach()


@pytest.mark.parametrize(
    ("status", "code", "reached"),
    [(404, "NoSuchKey", True), (403, "AccessDenied", True), (404, "NoSuchBucket", False),
     (403, "SignatureDoesNotMatch", False), (500, "InternalError", False)],
)  # fmt: skip
async def test_what_a_bucket_answers_is_understood(status: int, code: str, reached: bool) -> None:
    """One that denies to say whether an object is there may take pictures all the same."""
    reply = f"<Error><Code>{code}</Code></Error>".encode()
    with broken(status, reply) as (endpoint, seen):
        storage = S3Storage(
            "s3://bucket/x", endpoint=endpoint, access_key_id="k", secret_access_key="s"
        )
        check, _ = check_of(storage)
        found = await check.found()
        await check.close()
    assert (found == OK) == reached, found
    assert [one[0] for one in seen][:1] == ["GET"] and (len(seen) == 1 or status == 500)


async def test_heartbeats_go_on_as_soon_as_the_database_does(
    serve: Serve, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_away, tries = Store.heartbeat, asyncio.Event(), []

    async def heartbeat(self: Store, held: Collection[Holding], **given: Any) -> dict[str, bool]:
        tries.append(is_away.is_set())
        if is_away.is_set():
            raise Unavailable("the database cannot be used now")
        return await real(self, held, **given)

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.01)

    monkeypatch.setattr(Store, "heartbeat", heartbeat)
    engine.gate.clear()
    async with serve(heartbeat_seconds=0.2, lease_seconds=60) as services:
        dispatcher, darkroom = services.dispatcher, services.darkroom
        await submit(services)
        await until(lambda: bool(tries))
        is_away.set()
        await until(lambda: dispatcher.trouble is not None)
        seldom = services.settings.model_copy(update={"heartbeat_seconds": 1000.0})
        monkeypatch.setattr(dispatcher, "_settings", seldom)
        count = len(tries)
        await until(lambda: len(tries) > count)
        dispatcher._last_beat -= 50
        said = (await darkroom.health()).checks["dispatcher"]
        assert re.fullmatch(r"no heartbeat for \d\d s: the database cannot be used now", said)

        is_away.clear()

        await until(lambda: dispatcher.trouble is None)
        assert (await darkroom.health()).ready
        engine.gate.set()
