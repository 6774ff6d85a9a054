"""Several servers on one PostgreSQL: each task once, whoever is asked; a database that goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.accounts import Caller, Key
from api.errors import Unavailable, Unsure
from api.idempotency import Once
from api.orders import Order, Upload
from api.services import Services
from api.settings import SettingsError
from api.tasks import Delivery, Task, TaskState, TaskUpdate
from inference.job import ImageRequest, ImageRole
from tests.api.conftest import Serve
from tests.api.making import encoded, submitted
from tests.api.postgres import Cluster, rows, started
from tests.api.receivers import Receiver
from tests.api.scripted import ScriptedEngine

SECONDS = 30
WISH = ImageRequest(model="paint", prompt="a red circle")


class Pair:
    """Two servers and the engines behind them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engines = ScriptedEngine(), ScriptedEngine()
        self.one: Services
        self.two: Services

    def either(self, number: int) -> Services:
        """The one or the other."""
        return (self.one, self.two)[number % 2]

    async def ended(self, task: Task) -> Task:
        ended = await self.one.darkroom.wait(task.id, timeout_seconds=SECONDS, account=task.account)
        assert ended.state.ended
        return ended


@pytest.fixture
async def pair(
    serve: Serve, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    """On one database and one data folder; what is not told of is not looked for either."""
    for module in ("api.submit", "api.watch"):
        monkeypatch.setattr(f"{module}.RECHECK_SECONDS", 1000)
    made = Pair(cluster.emptied())
    first, second = made.engines
    settings: dict[str, Any] = {"database_url": made.url, "allowed_targets": "127.0.0.1"}
    settings |= {"heartbeat_seconds": 300, "lease_seconds": 1000}
    async with (
        serve(engine=first, **settings) as made.one,
        serve(engine=second, **settings) as made.two,
    ):
        yield made


async def test_each_task_is_run_once_by_either(pair: Pair) -> None:
    for engine in pair.engines:
        engine._picture_seconds = 0.01
    given = await asyncio.gather(
        *(persist(partial(submitted, pair.either(n), replace(WISH, seed=n))) for n in range(60))
    )
    ended = await asyncio.gather(*map(pair.ended, given))
    assert {(task.state, task.attempt) for task in ended} == {(TaskState.SUCCEEDED, 1)}
    run = [[task_id for task_id, _ in engine.orders] for engine in pair.engines]
    assert sorted(run[0] + run[1]) == sorted(task.id for task in given)
    assert all(run), "one server did it all"
    kinds = rows(pair.url, "SELECT task_id, kind FROM ledger")
    assert Counter(kind for _, kind in kinds) == {"hold": 60, "charge": 60}
    assert rows(pair.url, "SELECT balance, held FROM accounts WHERE name = ''") == [(-180, 0)]


async def busy(pair: Pair) -> Task:
    """A task that the second server runs, and does not end."""
    pair.engines[1].gate.clear()
    pair.one.dispatcher._has_room = lambda: False  # type: ignore[method-assign]
    task = await submitted(pair.one, WISH)
    async with asyncio.timeout(SECONDS):
        # its record says that it runs a moment before
        while not pair.engines[1].orders:
            await asyncio.sleep(0.01)
    return task


async def test_who_waits_elsewhere_learns_of_the_end_at_once(pair: Pair) -> None:
    task = await busy(pair)
    waiting = asyncio.create_task(pair.one.darkroom.wait(task.id, timeout_seconds=SECONDS))
    watching = asyncio.create_task(watched(pair.one, task))
    await asyncio.sleep(0.2)
    pair.engines[1].gate.set()
    async with asyncio.timeout(SECONDS):
        assert (await waiting).state is TaskState.SUCCEEDED
        told = await watching
    assert [update.state for update in told][-1] is TaskState.SUCCEEDED
    assert [update.output.index for update in told if update.output] == [0]


async def watched(services: Services, task: Task) -> list[TaskUpdate]:
    return [update async for update in services.darkroom.watch(task.id)]


async def test_a_cancel_reaches_the_server_that_runs_the_task(pair: Pair) -> None:
    task = await busy(pair)
    asked = await pair.one.darkroom.cancel(task.id)
    assert asked.state is TaskState.RUNNING
    assert (await pair.ended(task)).state is TaskState.CANCELLED
    assert pair.engines[1].was_cancelled(task.id)


async def test_one_key_is_one_task_wherever_it_is_sent(pair: Pair) -> None:
    """Also where the credits are enough for one: nobody is told that they do not suffice."""
    _, text = await pair.one.accounts.create_key(Key(id="", account="team"), credits=3)
    caller = await pair.two.accounts.caller(text)
    order = Order(request=WISH, dialect="darkroom")
    for number in range(3):
        once = Once(route="/x", key=f"k{number}", fingerprint="f")
        if number:
            await pair.one.accounts.grant("team", 3)
        found = await asyncio.gather(
            *(
                (pair.one, pair.two)[n % 2].darkroom.submit(order, caller, once=once)
                for n in range(16)
            )
        )
        assert len({one.task.id for one in found}) == 1
        assert Counter(one.is_replay for one in found) == {False: 1, True: 15}
    assert (await pair.two.accounts.account("team")).balance == 0


async def test_every_webhook_is_delivered_once(pair: Pair) -> None:
    async with Receiver() as receiver:
        delivery = Delivery(webhooks=(receiver.url,))
        order = Order(request=WISH, dialect="darkroom", delivery=delivery)
        given = [(await pair.one.darkroom.submit(order, Caller(""))).task for _ in range(20)]
        for task in given:
            await pair.ended(task)
        async with asyncio.timeout(SECONDS):
            while rows(pair.url, "SELECT 1 FROM outbox WHERE state <> 'delivered'"):
                await asyncio.sleep(0.05)
        assert len(receiver.received) == 20


async def test_what_another_delivers_is_left_to_it(serve: Serve, cluster: Cluster) -> None:
    url = cluster.emptied()
    async with serve(engine=ScriptedEngine(), database_url=url) as one:
        task = await submitted(one, WISH)
        await one.darkroom.wait(task.id, timeout_seconds=SECONDS)
        out = f"'m', '{task.id}', '', 'darkroom', 'https://x.example/', 'waiting', 1"
        rows(
            url,
            "INSERT INTO outbox (id, task_id, account, dialect, url, state, attempts, next_ms,"
            f" last_error, created_ms) VALUES ({out}, {2**50}, 'being delivered', 0)",
        )
        async with serve(engine=ScriptedEngine(), database_url=url):
            await asyncio.sleep(0.5)
            assert rows(url, "SELECT attempts, next_ms FROM outbox") == [(1, 2**50)]


async def test_one_sweeps_and_when_it_is_gone_the_other(serve: Serve, cluster: Cluster) -> None:
    url = cluster.emptied()
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        one = await first.enter_async_context(serve(engine=ScriptedEngine(), database_url=url))
        two = await second.enter_async_context(serve(engine=ScriptedEngine(), database_url=url))
        async with asyncio.timeout(SECONDS):
            while not await one.database.leads():
                await asyncio.sleep(0.01)
        assert [await two.database.leads(), await one.database.leads()] == [False, True]
        await first.aclose()
        assert await two.database.leads()


async def test_what_a_server_leaves_the_other_takes_over(serve: Serve, cluster: Cluster) -> None:
    """The first is stopped: it puts back what it runs, and no lease has to end for that."""
    url, stuck = cluster.emptied(), ScriptedEngine()
    stuck.gate.clear()
    async with serve(engine=stuck, database_url=url, drain_seconds=0.1) as one:
        task = await submitted(one, WISH)
        async with asyncio.timeout(SECONDS):
            while (await one.darkroom.get(task.id)).state is not TaskState.RUNNING:
                await asyncio.sleep(0.01)
        async with serve(engine=ScriptedEngine(), database_url=url) as two:
            assert (await two.darkroom.get(task.id)).state is TaskState.RUNNING, "left alone"
            await asyncio.sleep(1.5)
            assert (await two.darkroom.get(task.id)).attempt == 1
            await one.dispatcher.close()
            ended = await two.darkroom.wait(task.id, timeout_seconds=SECONDS)
    assert (ended.state, ended.attempt) == (TaskState.SUCCEEDED, 2)


async def test_a_folder_with_its_own_database_is_not_shared(serve: Serve, cluster: Cluster) -> None:
    async with serve(engine=ScriptedEngine(), database_url=cluster.emptied()):
        with pytest.raises(SettingsError, match="another darkroom serves"):
            async with serve(engine=ScriptedEngine()):
                pass


# --- a database that goes away


@pytest.fixture
def fragile() -> Iterator[Cluster]:
    """A PostgreSQL that may be stopped."""
    with started() as made:
        yield made


async def test_a_restart_of_the_database_costs_nothing_but_time(
    serve: Serve, fragile: Cluster, engine: ScriptedEngine
) -> None:
    url = fragile.emptied()
    async with serve(database_url=url, heartbeat_seconds=0.3, lease_seconds=1) as services:
        engine.gate.clear()
        first = [await submitted(services, WISH) for _ in range(3)]
        async with asyncio.timeout(SECONDS):
            while len(engine.orders) < 3:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(fragile.stop)
        with pytest.raises(Unavailable) as refused:
            await submitted(services, WISH)
        assert refused.value.retry_after_seconds
        assert "darkroom" not in str(refused.value), "no word of users and machines"
        with pytest.raises(Unavailable):
            await services.darkroom.get(first[0].id)
        assert (await services.darkroom.health()).checks["database"] != "ok"
        # made while nobody can write it down, and leases end
        engine.gate.set()
        await asyncio.sleep(2)

        await asyncio.to_thread(fragile.start)

        last = await persist(lambda: submitted(services, WISH))
        for task in [*first, last]:
            ended = await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
            assert (ended.state, ended.attempt) == (TaskState.SUCCEEDED, 1)
        async with asyncio.timeout(SECONDS):
            while not (await services.darkroom.health()).ready:
                await asyncio.sleep(0.05)
    assert rows(url, "SELECT balance, held FROM accounts WHERE name = ''") == [(-12, 0)]


async def test_after_an_outage_who_runs_a_task_goes_on(serve: Serve, fragile: Cluster) -> None:
    """Every lease ended meanwhile, and the other server is idle."""
    engines = ScriptedEngine(), ScriptedEngine()
    engines[0].gate.clear()
    settings = {
        "database_url": fragile.emptied(),
        "heartbeat_seconds": 1.5,
        "lease_seconds": 4.5,
    }
    async with serve(engine=engines[0], **settings) as one:
        task = await submitted(one, WISH)
        async with asyncio.timeout(SECONDS):
            while not engines[0].orders:
                await asyncio.sleep(0.01)
        async with serve(engine=engines[1], **settings) as two:
            await asyncio.to_thread(fragile.stop)
            await asyncio.sleep(5)
            await asyncio.to_thread(fragile.start)
            await persist(lambda: submitted(two, WISH))
            await asyncio.sleep(4)
            engines[0].gate.set()
            ended = await persist(lambda: two.darkroom.wait(task.id, timeout_seconds=SECONDS))
    assert (ended.state, ended.attempt) == (TaskState.SUCCEEDED, 1)


async def persist(work: Callable[[], object]) -> Task:
    """As a client does that was told to come back."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await work()  # type: ignore[misc]
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("error", "stays"), [(Unsure, True), (Unavailable, False)])
async def test_the_inputs_of_what_may_be_kept_stay(
    services: Services,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Unavailable],
    stays: bool,
) -> None:
    async def accept(*_: object) -> None:
        raise error("the database went away")

    monkeypatch.setattr(services.store, "accept", accept)
    picture = Upload(field="image", data=encoded(Image.new("RGB", (64, 64))), role=ImageRole.SOURCE)
    with pytest.raises(error):
        await submitted(services, WISH, uploads=[picture])
    inputs = [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]
    assert bool(inputs) == stays


async def test_a_start_without_the_database_says_so(serve: Serve, tmp_path: Path) -> None:
    url = f"postgresql://darkroom:canary@/darkroom?host={tmp_path}"
    with pytest.raises(Unavailable, match=r"PostgreSQL .* cannot be used now") as refused:
        async with serve(database_url=url):
            pass
    assert "canary" not in str(refused.value)
    async with serve():
        """Its folder is free for another start."""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"/shared?": "/nowhere?"}, 'database "nowhere" does not exist'),
        ({"darkroom@": "nobody@"}, 'role "nobody" does not exist'),
        ({"?host=": "?sslmode=canary&host="}, "sslmode"),
    ],
    ids=["database", "user", "address"],
)
async def test_a_start_on_a_wrong_address_says_so(
    serve: Serve, cluster: Cluster, changed: dict[str, str], says: str
) -> None:
    url = cluster.emptied()
    for old, new in changed.items():
        assert old in url
        url = url.replace(old, new)
    with pytest.raises(SettingsError, match=f"DARKROOM_DATABASE_URL: .*{says}"):
        async with serve(database_url=url):
            pass
