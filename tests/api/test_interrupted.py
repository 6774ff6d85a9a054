"""A copy that its destination does not take holds up no cancel and no end of the process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from api.destinations import Destinations, Pause
from api.keeping import Interrupted, Patience
from api.outputs import EncodedPicture
from api.services import Services
from api.store.destinations import DestinationStore
from api.tasks import Delivery, Extras, Task, TaskState
from tests.api.conftest import Serve
from tests.api.making import inserted, submission
from tests.api.scripted import ScriptedEngine
from tests.api.test_destinations import Guard, equip, wanted
from tests.api.test_dispatcher import until_idle
from tests.api.test_partial import GRANTED, PRICE, TEAM, done, now, seen, spent
from tests.api.test_s3 import broken

SECONDS = 30
# What is left of a delivery's pauses after the first two is more than twice as long.
SOON_SECONDS = 10


@contextmanager
def refusing(services: Services, refused: int) -> Iterator[list[int]]:
    """Copies go nowhere and that of one picture is refused; yields the tries of that."""
    tries: list[int] = []
    store = DestinationStore(services.database)
    places = Destinations(store, Guard(), pauses_seconds=(0.05, 25.0))
    with broken(503, b"<Error><Code>SlowDown</Code></Error>") as (endpoint, _):

        async def deliver(task: Task, index: int, picture: EncodedPicture, pause: Pause) -> str:
            if index != refused:
                return f"s3://somewhere/{index}.png"
            if not tries:
                await store.insert(wanted(account=TEAM, name="full", endpoint=endpoint))
            task = replace(task, delivery=Delivery(destination="full"))

            async def counted(seconds: float) -> None:
                tries.append(index)
                await pause(seconds)

            return await places.deliver_for(task, index, picture, counted)

        equip(services, deliver=deliver)
        yield tries


async def order(services: Services) -> Task:
    """Three pictures with copies, of an account with a meter, which keeps what is made of them."""
    await services.accounts.open(TEAM)
    await services.accounts.grant(TEAM, GRANTED)
    given = replace(
        submission(secrets.token_hex(8), count=3, account=TEAM),
        delivery=Delivery(destination="site"),
        extras=Extras(allows_partial=True),
    )
    task = await inserted(services.store, given)
    services.dispatcher.wake()
    return task


async def retried(services: Services, tries: list[int]) -> Task:
    """A task of three pictures of which two are made, and the copy of the last waits."""
    task = await order(services)
    await seen(services, task, 2)
    async with asyncio.timeout(SECONDS):
        while len(tries) < 2:
            await asyncio.sleep(0.005)
    return task


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data" / "objects" / "outputs").rglob("*.png"))


async def test_a_cancel_waits_for_no_destination(services: Services, tmp_path: Path) -> None:
    with refusing(services, 1) as tries:
        task = await retried(services, tries)
        begun = time.monotonic()
        await services.darkroom.cancel(task.id, account=TEAM)
        found = await done(services, task)
    assert time.monotonic() - begun < SOON_SECONDS
    assert (found.state, found.failures) == (TaskState.CANCELLED, ())
    assert [output.index for output in found.pictures] == [0, 2]
    assert (found.cost, await spent(services)) == (2 * PRICE, 2 * PRICE)
    assert files(tmp_path) == ["1-0.png", "1-2.png"], "what is not delivered is not kept"
    assert len(tries) == 2


async def test_the_end_of_the_process_waits_for_no_destination(
    serve: Serve, tmp_path: Path
) -> None:
    second = ScriptedEngine()
    async with serve(drain_seconds=25.0, max_attempts=1) as services:
        with refusing(services, 1) as tries:
            task = await retried(services, tries)
            begun = time.monotonic()
            await services.dispatcher.close()
            assert time.monotonic() - begun < SOON_SECONDS
            left = await now(services, task)
            assert (left.state, left.failures) == (TaskState.RUNNING, ())
    assert files(tmp_path) == ["1-0.png", "1-2.png"]
    async with serve(second, max_attempts=1) as services:
        with refusing(services, -1):
            services.dispatcher.wake()
            found = await done(services, task)
        assert second.orders == [(task.id, (1,))], "the others stay as they were made"
        assert (found.state, found.attempt) == (TaskState.SUCCEEDED, 2)
        assert await spent(services) == 3 * PRICE


async def test_who_has_lost_the_task_tries_no_more(serve: Serve) -> None:
    async with serve() as services:
        with refusing(services, 1) as tries:
            task = await retried(services, tries)
            begun = time.monotonic()
            services.dispatcher._runs[task.id].lose()
            await until_idle(services)
            assert time.monotonic() - begun < SOON_SECONDS
            assert (await now(services, task)).failures == ()


async def test_what_can_be_delivered_while_the_process_ends_is(serve: Serve) -> None:
    """One more try costs nothing; it is the waiting that there is no time for."""
    slow = ScriptedEngine(picture_seconds=0.1)
    async with serve(slow, drain_seconds=20.0) as services:
        with refusing(services, -1):
            task = await order(services)
            await seen(services, task, 1)
            await services.dispatcher.close()
            found = await now(services, task)
            assert (found.state, len(found.pictures)) == (TaskState.SUCCEEDED, 3)


async def test_patience_ends_where_it_waits_and_before() -> None:
    patience = Patience()
    await patience(0.001)
    waiting = asyncio.create_task(patience(60.0))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    patience.end()
    with pytest.raises(Interrupted):
        await waiting
    with pytest.raises(Interrupted):
        await patience(60.0)
