"""A picture that fails leaves the others of its task: made once, kept, and charged exactly."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from api.accounts import Caller
from api.errors import NotFound, Unavailable
from api.orders import Order
from api.services import Services
from api.store import Store, ledger
from api.tasks import Extras, Failure, Task, TaskState, TaskUpdate
from inference.errors import JobError, ModelFailed, OutOfMemory, PipelineFailed
from inference.job import ImageRequest, Job
from tests.api.conftest import Serve
from tests.api.making import output_of
from tests.api.scripted import ScriptedEngine
from tests.api.test_dispatcher import (
    crash,
    ended,
    give_to_another,
    submit,
    until_idle,
    until_running,
)

GRANTED = 1000
PRICE = 3
TEAM = "team"
SECONDS = 30


async def order(services: Services, count: int, seed: int = 0) -> Task:
    """A task that keeps what is made of it, of an account with a meter."""
    await services.accounts.open(TEAM)
    if (await services.accounts.account(TEAM)).metered is False:
        await services.accounts.grant(TEAM, GRANTED)
    wish = ImageRequest(model="paint", prompt="a red circle", count=count, seed=seed)
    given = Order(request=wish, dialect="darkroom", extras=Extras(allows_partial=True))
    return (await services.darkroom.submit(given, Caller(TEAM))).task


async def done(services: Services, task: Task) -> Task:
    found = await services.darkroom.wait(task.id, timeout_seconds=SECONDS, account=TEAM)
    assert found.state.ended, found
    return found


async def now(services: Services, task: Task) -> Task:
    return await services.darkroom.get(task.id, account=TEAM)


async def spent(services: Services) -> int:
    account = await services.accounts.account(TEAM)
    assert account.held == 0
    entries = await services.accounts.entries(TEAM, limit=10_000)
    assert sum(one.amount for one in entries) == account.balance
    return GRANTED - account.balance


async def seen(services: Services, task: Task, count: int) -> Task:
    """The task once so many of its pictures have an end."""
    async with asyncio.timeout(SECONDS):
        while len((found := await now(services, task)).outputs) + len(found.failures) < count:
            await asyncio.sleep(0.005)
    return found


def failing(*indexes: int) -> Callable[[Job, int], JobError | None]:
    return lambda job, index: PipelineFailed("it broke") if index in indexes else None


async def test_the_others_are_kept_and_they_alone_are_charged(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.fails = failing(0, 2)
    task = await done(services, await order(services, count=4))

    assert task.state is TaskState.SUCCEEDED
    assert (task.error_kind, task.error_message) == (None, None)
    assert [output.index for output in task.outputs] == [1, 3]
    told = [(one.index, one.kind, one.message) for one in task.failures]
    assert told == [(0, "pipeline_failed", "it broke"), (2, "pipeline_failed", "it broke")]
    assert (task.credits, task.cost, await spent(services)) == (12, 6, 6)
    assert task.attempt == 1 and not engine.was_cancelled(task.id)
    assert (await services.darkroom.image(task.id, 3, account=TEAM)).data
    with pytest.raises(NotFound, match="picture 2 could not be made: it broke"):
        await services.darkroom.image(task.id, 2, account=TEAM)


async def test_a_part_is_given_back_once_however_often_that_is_asked(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.fails = failing(0)
    task = await done(services, await order(services, count=3))
    for _ in range(2):
        await services.store._database.write(
            lambda connection: ledger.refund_part(connection, task.id, PRICE, now_ms=1)
        )
    assert await spent(services) == 2 * PRICE


async def test_where_all_fail_the_task_fails_and_costs_nothing(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.fails = lambda job, index: OutOfMemory(f"no room for {index}\0")
    task = await done(services, await order(services, count=3))

    assert task.state is TaskState.FAILED
    assert (task.error_kind, task.error_message) == ("out_of_memory", "no room for 0")
    assert [one.message for one in task.failures] == [f"no room for {n}" for n in range(3)]
    assert (task.cost, await spent(services)) == (0, 0)


async def test_without_leave_one_failure_still_ends_the_task(
    services: Services, engine: ScriptedEngine
) -> None:
    def fails(job: Job, index: int) -> JobError | None:
        if index == 1:
            engine.gate.clear()  # the next picture is still in the making when this one fails
        return failing(1)(job, index)

    engine.fails = fails
    task = await ended(services, await submit(services, count=3))
    assert (task.state, task.failures, task.cost) == (TaskState.FAILED, (), 0)
    assert [one.index for one in task.outputs] == [0]


async def test_the_reason_names_no_folder_of_this_machine(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.fails = lambda job, index: ModelFailed("/srv/secret is missing") if index else None
    task = await done(services, await order(services, count=2))
    (failure,) = task.failures
    assert failure.kind == "model_failed"
    assert failure.message == "the model 'paint' could not be loaded"


async def test_why_a_model_failed_is_kept_apart_from_what_everybody_is_told(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.fails = lambda job, index: ModelFailed("/srv/secret is missing")
    task = await ended(services, await submit(services, count=2))
    assert (task.state, task.error_kind) == (TaskState.FAILED, "model_failed")
    assert task.error_message == "the model 'paint' could not be loaded"
    assert task.findings.reason == "/srv/secret is missing"
    engine.fails = lambda job, index: PipelineFailed("it broke")
    task = await ended(services, await submit(services, count=1))
    assert (task.error_message, task.findings.reason) == ("it broke", None)


async def test_a_watcher_hears_of_each_once_and_before_the_end(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    engine.fails = failing(1)
    task = await order(services, count=3)
    heard: list[TaskUpdate] = []
    asyncio.get_running_loop().call_later(0.2, engine.gate.set)
    async for update in services.darkroom.watch(task.id, account=TEAM):
        heard.append(update)
    ends = [one for one in heard if one.output or one.failure or one.state.ended]
    assert {one.output.index for one in ends if one.output} == {0, 2}
    assert [one.failure.index for one in ends if one.failure] == [1]
    assert len(ends) == 4 and ends[-1].state is TaskState.SUCCEEDED


async def test_after_a_crash_what_failed_is_neither_tried_nor_refunded_again(
    serve: Serve, engine: ScriptedEngine
) -> None:
    first = ScriptedEngine()

    def stall(job: Job, index: int) -> JobError | None:
        if index == 2:
            first.gate.clear()
            first.gate.wait(SECONDS)
        return failing(1)(job, index)

    first.fails = stall
    async with serve(first) as services:
        task = await order(services, count=4)
        before = await seen(services, task, 2)
        await crash(services, first)
    async with serve(engine) as services:
        after = await done(services, task)
        assert await spent(services) == after.cost == 3 * PRICE
        kinds = [one.kind for one in await services.accounts.entries(TEAM) if one.task_id]
    assert engine.orders == [(task.id, (2, 3))]
    assert [output.index for output in after.outputs] == [0, 2, 3]
    assert after.outputs[0] == before.outputs[0]
    assert after.failures == before.failures
    assert sorted(kinds) == ["charge", "hold", "refund"]


async def test_a_crash_before_the_end_needs_no_engine_to_end(
    serve: Serve, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where some were made nor where all have failed."""
    first = ScriptedEngine()
    first.fails = lambda job, index: PipelineFailed("it broke") if job.seeds[index] < 9 else None

    async def never(*_: object, **__: object) -> None:
        raise Unavailable("the database is locked")

    async with serve(first) as services:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "finish", never)
            some, none = await order(services, count=2, seed=8), await order(services, count=2)
            await seen(services, some, 2)
            await seen(services, none, 2)
            await crash(services, first)
    async with serve(engine) as services:
        kept, failed = await done(services, some), await done(services, none)
        assert await spent(services) == PRICE
    assert engine.orders == []
    assert (kept.state, kept.cost) == (TaskState.SUCCEEDED, PRICE)
    assert (failed.state, failed.error_message) == (TaskState.FAILED, "it broke")


async def test_a_cancel_gives_back_what_was_not_made(
    services: Services, engine: ScriptedEngine
) -> None:
    def stall(job: Job, index: int) -> JobError | None:
        if index == 1:
            engine.gate.clear()
        return failing(1)(job, index)

    engine.fails = stall
    task = await order(services, count=4)
    await seen(services, task, 2)
    await services.darkroom.cancel(task.id, account=TEAM)
    task = await done(services, task)
    assert task.state is TaskState.CANCELLED
    assert [one.index for one in task.outputs] == [0]
    assert [one.index for one in task.failures] == [1]
    assert (task.cost, await spent(services)) == (PRICE, PRICE)


async def test_what_kills_its_workers_is_given_up_alone(serve: Serve) -> None:
    """Picture 1 takes the process with it every time; picture 0 was made before."""
    for attempt in range(1, 5):
        engine = ScriptedEngine()

        def stall(job: Job, index: int, engine: ScriptedEngine = engine) -> JobError | None:
            if index == 1:
                engine.gate.clear()
                engine.gate.wait(SECONDS)
            return None

        engine.fails = stall
        async with serve(engine, max_attempts=3) as services:
            if attempt == 1:
                task = await order(services, count=2)
                await seen(services, task, 1)
            if attempt < 4:
                await until_running(services, await now(services, task))
                await crash(services, engine)
                continue
            found = await done(services, task)
            assert await spent(services) == PRICE
    assert found.state is TaskState.SUCCEEDED
    assert [one.index for one in found.outputs] == [0]
    (failure,) = found.failures
    assert (failure.index, failure.kind) == (1, "gave_up")
    assert failure.message == "gave up after 3 attempts"


async def test_a_cancel_goes_before_giving_up(serve: Serve, engine: ScriptedEngine) -> None:
    first = ScriptedEngine()

    def stall(job: Job, index: int) -> JobError | None:
        if index == 1:
            first.gate.clear()
            first.gate.wait(SECONDS)
        return None

    first.fails = stall
    async with serve(first, max_attempts=1) as services:
        task = await order(services, count=2)
        await seen(services, task, 1)
        assert await services.store.request_cancel(task.id)
        await crash(services, first)
    async with serve(engine, max_attempts=1) as services:
        found = await done(services, task)
        assert (found.state, found.failures, found.attempt) == (TaskState.CANCELLED, (), 2)
        assert await spent(services) == PRICE * len(found.outputs) == PRICE


async def test_a_picture_has_one_end(serve: Serve, tmp_path: Path) -> None:
    """Whichever was recorded first, made or failed, is the one; the other changes nothing."""
    stuck = ScriptedEngine()
    stuck.gate.clear()
    async with serve(stuck) as services:
        task = await order(services, count=2)
        await until_running(services, task)
        holding, store = services.dispatcher._runs[task.id].holding, services.store
        failures = [Failure(index=n, kind="pipeline_failed", message="it broke") for n in (0, 1)]
        assert await store.add_failure(holding, failures[0])
        assert await store.add_output(holding, output_of(task.id, 0))
        assert await store.add_output(holding, output_of(task.id, 1))
        assert await store.add_failure(holding, failures[1])
        found = await now(services, task)
        assert [one.index for one in found.outputs] == [1]
        assert [one.index for one in found.failures] == [0]
        with closing(sqlite3.connect(tmp_path / "data" / "darkroom.db")) as database:
            assert database.execute('SELECT "index" FROM failures').fetchall() == [(0,)]
        await crash(services, stuck)


async def test_a_late_failure_is_not_recorded(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    engine.fails = failing(0, 1)
    async with serve(heartbeat_seconds=30, lease_seconds=90) as services:
        task = await order(services, count=2)
        await until_running(services, task)
        await asyncio.to_thread(give_to_another, tmp_path)
        engine.gate.set()
        await until_idle(services)
        left = await now(services, task)
        assert (left.state, left.failures) == (TaskState.RUNNING, ())
        assert engine.was_cancelled(task.id), "the others are not made for nobody"


async def test_a_database_that_fails_for_a_while_forgets_no_failure(
    services: Services, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = Store.add_failure, []

    async def written_but_not_said(self: Store, *given: object) -> bool:
        tries.append(await real(self, *given))  # type: ignore[arg-type]
        if len(tries) == 1:
            raise Unavailable("the connection is gone")
        return tries[-1]

    monkeypatch.setattr(Store, "add_failure", written_but_not_said)
    engine.fails = failing(0)
    task = await done(services, await order(services, count=2))
    assert (task.state, tries) == (TaskState.SUCCEEDED, [True, True])
    assert [one.index for one in task.failures] == [0]
    assert await spent(services) == PRICE


async def test_whatever_crashes_when_exactly_what_was_made_is_charged(
    serve: Serve, engine: ScriptedEngine
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    lost = {number: chance.random() < 0.4 for number in range(200)}
    tasks: list[Task] = []
    for life in range(6):
        running = ScriptedEngine(picture_seconds=0.01)
        running.fails = lambda job, index: (
            PipelineFailed("it broke") if lost[job.seeds[index]] else None
        )
        async with serve(running, max_attempts=100) as services:
            if life < 5:
                for _ in range(4):
                    count = chance.randint(1, 5)
                    tasks.append(await order(services, count, seed=chance.randrange(190)))
                await asyncio.sleep(chance.uniform(0, 0.25))
                if chance.random() < 0.5:
                    await services.darkroom.cancel(chance.choice(tasks).id, account=TEAM)
                await crash(services, running)
                continue
            ends = [await done(services, task) for task in tasks]
            total = await spent(services)
    for task in ends:
        doomed = {index for index, one in enumerate(task.job.seeds) if lost[one]}
        made, failed = ({one.index for one in ends} for ends in (task.outputs, task.failures))
        assert failed <= doomed and not made & doomed, f"seed {seed}: {task}"
        if task.state is TaskState.CANCELLED:
            continue
        assert failed == doomed, f"seed {seed}: {task}"
        assert len(made) + len(failed) == len(task.job.seeds), f"seed {seed}: {task}"
        assert (task.state is TaskState.SUCCEEDED) == bool(made), f"seed {seed}: {task}"
    assert total == PRICE * sum(len(task.outputs) for task in ends), f"seed {seed}"
