"""A task made whole or not at all hands out nothing before its end, and nothing if it fails."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from api.accounts import Caller
from api.errors import ApiError, BadRequest, NotFound, NotReady, Unavailable
from api.housekeeping import HOUR_MS, Housekeeper
from api.orders import Order
from api.services import Services
from api.storage import LocalStorage
from api.store.housekeeping import HousekeepingStore
from api.tasks import Task, TaskState
from inference.errors import JobError, PipelineFailed
from inference.job import ImageRequest, Job
from tests.api.conftest import Serve
from tests.api.scripted import ScriptedEngine
from tests.api.test_dispatcher import crash
from tests.api.test_partial import GRANTED, PRICE, TEAM, done, failing, now, spent

SECONDS = 30


async def order(services: Services, count: int) -> Task:
    """A task that is made whole or not at all, of an account with a meter."""
    await services.accounts.open(TEAM)
    if not (await services.accounts.account(TEAM)).metered:
        await services.accounts.grant(TEAM, GRANTED)
    wish = ImageRequest(model="paint", prompt="a red circle", count=count)
    given = Order(request=wish, dialect="darkroom")
    return (await services.darkroom.submit(given, Caller(TEAM))).task


async def stored(services: Services, task: Task, count: int) -> Task:
    """The task once so many of its pictures are recorded."""
    async with asyncio.timeout(SECONDS):
        while len((found := await now(services, task)).outputs) < count:
            await asyncio.sleep(0.005)
    return found


def stalling_at(engine: ScriptedEngine, stop: int) -> None:
    """Have that picture, and those after it, wait for the gate."""

    def stall(job: Job, index: int) -> JobError | None:
        if index == stop - 1:
            engine.gate.clear()
        return None

    engine.fails = stall


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data" / "objects" / "outputs").rglob("*.png"))


async def reasons(services: Services, task: Task, index: int) -> list[ApiError]:
    """Why a picture is not to be had, by whichever way it may be asked for."""
    link = services.links.sign(f"/darkroom/files/{task.id}/{index}/x.png")
    ways: list[Callable[[], object]] = [
        lambda: services.darkroom.image(task.id, index, account=TEAM),
        lambda: services.darkroom.linked_image(task.id, index),
        lambda: services.darkroom._reception._pictures._source.fetch(  # type: ignore[attr-defined]
            link, field="image", max_bytes=10**9, timeout_seconds=5
        ),
    ]
    found = []
    for way in ways:
        with pytest.raises(ApiError) as refused:
            await way()  # type: ignore[misc]
        found.append(refused.value)
    return found


async def test_nothing_is_handed_out_before_the_end(
    services: Services, engine: ScriptedEngine
) -> None:
    stalling_at(engine, 2)
    task = await order(services, count=3)
    found = await stored(services, task, 2)

    assert (found.state, found.pictures) == (TaskState.RUNNING, ())
    kinds = [type(error) for error in await reasons(services, task, 0)]
    assert kinds == [NotReady, NotReady, BadRequest]
    engine.gate.set()
    found = await done(services, task)
    assert [output.index for output in found.pictures] == [0, 1, 2]
    assert (await services.darkroom.linked_image(task.id, 0)).data
    assert await spent(services) == 3 * PRICE


async def test_a_watcher_is_told_of_pictures_at_the_end(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    task = await order(services, count=3)
    told = []
    async with asyncio.timeout(SECONDS):
        async for update in services.darkroom.watch(task.id, account=TEAM):
            engine.gate.set()
            told.append(update)
            if update.output is not None:
                assert (await now(services, task)).state is TaskState.SUCCEEDED
    assert [update.output.index for update in told if update.output] == [0, 1, 2]
    assert any(update.step for update in told), "it is shown in the making all the same"


async def test_pictures_of_a_failed_task_are_nobodys(
    services: Services, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.fails = failing(2)
    task = await order(services, count=3)
    told = [one async for one in services.darkroom.watch(task.id, account=TEAM)]
    found = await done(services, task)

    assert (found.state, found.cost, await spent(services)) == (TaskState.FAILED, 0, 0)
    assert [output.index for output in found.outputs] == [0, 1], "they were made"
    assert found.pictures == () and not any(one.output for one in told)
    (listed,) = (await services.darkroom.list(account=TEAM)).tasks
    assert listed.pictures == ()
    kinds = [type(error) for error in await reasons(services, task, 0)]
    assert kinds == [NotFound, NotFound, BadRequest]
    async with asyncio.timeout(SECONDS):
        while files(tmp_path):
            await asyncio.sleep(0.005)


async def test_what_failed_and_could_not_be_deleted_is_swept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A crash, or a storage that is away, between the end of the task and that of its files."""
    asked = asyncio.Event()

    async def hang(self: LocalStorage, key: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    first = ScriptedEngine()
    first.fails = failing(2)
    async with serve(first) as services:
        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, "delete", hang)
            task = await order(services, count=3)
            await done(services, task)
            await asked.wait()
            await crash(services, first)
    assert files(tmp_path) == ["1-0.png", "1-1.png"]
    async with serve(ScriptedEngine()) as services:
        assert (await now(services, task)).pictures == ()
        assert (await services.housekeeper.sweep()).get("strays") is None, "too young to be swept"
        rows = HousekeepingStore(services.database)
        clock = services.database.now_ms
        later = Housekeeper(
            rows, services.storage, retention_hours=None, now_ms=lambda: clock() + HOUR_MS + 1000
        )
        assert await later.sweep() == {"strays": 2}
        assert await spent(services) == 0
    assert files(tmp_path) == []


async def test_a_storage_that_is_away_holds_up_no_end(
    services: Services, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: LocalStorage, key: str) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(LocalStorage, "delete", away)
    engine.fails = failing(1)
    task = await done(services, await order(services, count=2))
    assert (task.state, task.pictures) == (TaskState.FAILED, ())
    engine.fails = failing()
    assert (await done(services, await order(services, count=2))).state is TaskState.SUCCEEDED


async def test_what_was_made_before_a_crash_is_withheld_until_the_rest_is(
    serve: Serve, tmp_path: Path
) -> None:
    first, second = ScriptedEngine(), ScriptedEngine()
    stalling_at(first, 2)
    async with serve(first) as services:
        task = await order(services, count=3)
        await stored(services, task, 2)
        await crash(services, first)
    second.fails = lambda job, index: PipelineFailed("it broke")
    async with serve(second) as services:
        found = await done(services, task)
        assert second.orders == [(task.id, (2,))]
        assert (found.state, found.pictures, await spent(services)) == (TaskState.FAILED, (), 0)
        async with asyncio.timeout(SECONDS):
            while files(tmp_path):
                await asyncio.sleep(0.005)


async def test_one_that_is_cancelled_keeps_what_it_pays_for(
    services: Services, engine: ScriptedEngine, tmp_path: Path
) -> None:
    stalling_at(engine, 2)
    task = await order(services, count=4)
    await stored(services, task, 2)
    await services.darkroom.cancel(task.id, account=TEAM)
    found = await done(services, task)

    assert found.state is TaskState.CANCELLED
    assert [output.index for output in found.pictures] == [0, 1]
    assert (await services.darkroom.image(task.id, 1, account=TEAM)).data
    assert (found.cost, await spent(services)) == (2 * PRICE, 2 * PRICE)
    assert files(tmp_path) == ["1-0.png", "1-1.png"]


def test_only_those_who_make_and_record_them_see_all_outputs() -> None:
    """Everybody else reads `pictures`, which decides."""
    root = Path(__file__).parents[2] / "api"
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "outputs"
    }
    assert readers == {"tasks.py", "run.py", "store/reading.py", "store/store.py"}
