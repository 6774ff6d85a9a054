"""From the store to the engine and back: resume, cancel, failure, restart, drain."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.errors import Unavailable
from api.services import Services
from api.storage import LocalStorage
from api.store import Store
from api.tasks import Output, Task, TaskState
from inference.errors import JobError, OutOfMemory
from inference.job import ImageRequest, Job
from tests.api.conftest import Serve
from tests.api.making import encoded, submitted
from tests.api.scripted import ScriptedEngine, picture_of

SECONDS = 30


async def submit(services: Services, count: int = 1, seed: int = 0) -> Task:
    wish = ImageRequest(model="paint", prompt="a red circle", count=count, seed=seed)
    return await submitted(services, wish, dialect="darkroom")


async def ended(services: Services, task: Task) -> Task:
    found = await services.darkroom.wait(task.id, timeout_seconds=SECONDS)
    assert found.state.ended, found
    return found


async def until_running(services: Services, task: Task) -> None:
    async with asyncio.timeout(SECONDS):
        while task.id not in services.dispatcher._runs:
            await asyncio.sleep(0.005)


async def test_every_picture_is_stored_as_it_was_made(services: Services) -> None:
    task = await ended(services, await submit(services, count=5, seed=1000))
    assert task.state is TaskState.SUCCEEDED
    for output in task.outputs:
        stored = await services.darkroom.image(task.id, output.index)
        made = picture_of(task.job, output.index)
        assert encoded(made)[:8] == stored.data[:8]
        assert output.seed == task.job.seeds[output.index]
        assert output.size_bytes == len(stored.data)


async def test_many_tasks_share_the_engine(services: Services) -> None:
    tasks = await asyncio.gather(*(submit(services, count=n % 3 + 1) for n in range(40)))
    done = await asyncio.gather(*(ended(services, task) for task in tasks))
    assert {task.state for task in done} == {TaskState.SUCCEEDED}
    assert [len(task.outputs) for task in done] == [n % 3 + 1 for n in range(40)]
    queue = await services.darkroom.queue()
    assert (queue.queued_tasks, queue.running_tasks, queue.unfinished_images) == (0, 0, 0)
    assert queue.seconds_per_image is not None


async def test_no_more_is_claimed_than_there_is_room(serve: Serve, engine: ScriptedEngine) -> None:
    engine.gate.clear()
    async with serve(images_in_flight=4) as services:
        tasks = [await submit(services, count=2) for _ in range(5)]
        await until_running(services, tasks[1])
        await asyncio.sleep(0.2)
        queue = await services.darkroom.queue()
        assert (queue.running_tasks, queue.queued_tasks) == (2, 3)
        engine.gate.set()
        assert {(await ended(services, task)).state for task in tasks} == {TaskState.SUCCEEDED}


async def test_one_failed_picture_fails_the_task(
    services: Services, engine: ScriptedEngine
) -> None:
    def fails(job: Job, index: int) -> JobError | None:
        if index != 1:
            return None
        engine.gate.clear()  # the next picture is still in the making when this one fails
        return OutOfMemory("no room\0 for \ud800 this")

    engine.fails = fails
    task = await ended(services, await submit(services, count=4))
    assert task.state is TaskState.FAILED
    assert (task.error_kind, task.error_message) == ("out_of_memory", "no room for ? this")
    assert [output.index for output in task.outputs] == [0]


async def test_a_queued_task_is_cancelled_at_once(serve: Serve, engine: ScriptedEngine) -> None:
    engine.gate.clear()
    async with serve(images_in_flight=1) as services:
        first, second = await submit(services), await submit(services)
        await until_running(services, first)
        cancelled = await services.darkroom.cancel(second.id)
        assert cancelled.state is TaskState.CANCELLED
        engine.gate.set()
        assert (await ended(services, first)).state is TaskState.SUCCEEDED
        assert [name for name, _ in engine.orders] == [first.id]


async def test_a_running_task_is_cancelled_at_its_next_step(
    services: Services, engine: ScriptedEngine
) -> None:
    engine.gate.clear()
    task = await submit(services, count=3)
    await until_running(services, task)
    asked = await services.darkroom.cancel(task.id)
    assert asked.cancel_requested and asked.state is TaskState.RUNNING
    done = await ended(services, task)
    assert done.state is TaskState.CANCELLED and done.outputs == ()
    assert await services.darkroom.cancel(task.id) == done


async def test_cancels_at_any_moment_leave_no_half_state(
    services: Services, engine: ScriptedEngine
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)

    async def order_and_cancel() -> Task:
        task = await submit(services, count=chance.randint(1, 4))
        await asyncio.sleep(chance.uniform(0, 0.3))
        await services.darkroom.cancel(task.id)
        return await ended(services, task)

    for task in await asyncio.gather(*(order_and_cancel() for _ in range(60))):
        complete = len(task.outputs) == len(task.job.seeds)
        wanted = TaskState.SUCCEEDED if complete else TaskState.CANCELLED
        assert task.state is wanted, f"seed {seed}: {task}"


def give_to_another(tmp_path: Path) -> None:
    """What happens to a worker that was paused: another one has claimed its tasks."""
    with sqlite3.connect(tmp_path / "data" / "darkroom.db") as database:
        database.execute(
            "UPDATE tasks SET worker = 'heir', attempt = attempt + 1, lease_until_ms = 1 << 50"
        )
    database.close()


async def until_idle(services: Services) -> None:
    async with asyncio.timeout(SECONDS):
        while services.dispatcher._runs:
            await asyncio.sleep(0.01)


async def test_a_lost_lease_stops_the_work(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    async with serve(heartbeat_seconds=0.1, lease_seconds=30) as services:
        task = await submit(services, count=2)
        await until_running(services, task)
        # not on the loop, where it would wait for a transaction that waits for the loop
        await asyncio.to_thread(give_to_another, tmp_path)
        await until_idle(services)  # although no picture could be made
        left = await services.darkroom.get(task.id)
        assert (left.state, left.attempt, left.outputs) == (TaskState.RUNNING, 2, ())
        engine.gate.set()
        assert (await ended(services, await submit(services))).state is TaskState.SUCCEEDED


async def test_a_late_picture_is_thrown_away(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    async with serve(heartbeat_seconds=30, lease_seconds=90) as services:
        task = await submit(services)
        await until_running(services, task)
        # not on the loop, where it would wait for a transaction that waits for the loop
        await asyncio.to_thread(give_to_another, tmp_path)
        engine.gate.set()
        await until_idle(services)
        left = await services.darkroom.get(task.id)
        assert (left.state, left.outputs) == (TaskState.RUNNING, ())
        assert [name for name, _ in engine.orders] == [task.id], "the picture was made"
        assert list((tmp_path / "data" / "objects").rglob("*.png")) == []


async def crash(services: Services, engine: ScriptedEngine) -> None:
    """Leave as a killed process does: nothing is finished and nothing put back."""
    dispatcher = services.dispatcher
    tasks = [*dispatcher._loops, *dispatcher._driving]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    dispatcher._loops = []
    engine.close()


async def test_after_a_crash_only_missing_pictures_are_made(
    serve: Serve, engine: ScriptedEngine
) -> None:
    first = ScriptedEngine()

    def stall(job: Job, index: int) -> JobError | None:
        if index == 2:
            first.gate.clear()
            first.gate.wait(SECONDS)
        return None

    first.fails = stall
    async with serve(first) as services:
        task = await submit(services, count=4)
        async with asyncio.timeout(SECONDS):
            while len((await services.darkroom.get(task.id)).outputs) < 2:
                await asyncio.sleep(0.005)
        await crash(services, first)
    async with serve(engine) as services:
        done = await ended(services, task)
    assert done.state is TaskState.SUCCEEDED and done.attempt == 2
    assert engine.orders == [(task.id, (2, 3))]
    assert [output.key.rpartition("/")[2] for output in done.outputs] == [
        "1-0.png", "1-1.png", "2-2.png", "2-3.png",
    ]  # fmt: skip


async def test_a_cancel_survives_a_crash(
    serve: Serve, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ScriptedEngine()
    first.gate.clear()
    async with serve(first) as services:
        task = await submit(services)
        await until_running(services, task)
        monkeypatch.setattr(services.dispatcher, "cancel", lambda task_id: None)
        assert (await services.darkroom.cancel(task.id)).state is TaskState.RUNNING
        await crash(services, first)
    async with serve(engine) as services:
        assert (await ended(services, task)).state is TaskState.CANCELLED
    assert engine.orders == []


async def test_a_task_that_only_lacks_its_end_needs_no_engine(
    serve: Serve, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with serve(ScriptedEngine()) as services:
        task = await ended(services, await submit(services, count=2))
    with sqlite3.connect(tmp_path / "data" / "darkroom.db") as other:
        other.execute("UPDATE tasks SET state = 'running', finished_ms = NULL, lease_until_ms = 1")
    other.close()
    async with serve(engine) as services:
        assert (await ended(services, task)).state is TaskState.SUCCEEDED
    assert engine.orders == []


async def test_a_task_that_kills_its_workers_is_given_up(serve: Serve) -> None:
    attempts = []
    for attempt in range(1, 6):
        engine = ScriptedEngine()
        engine.gate.clear()
        async with serve(engine, max_attempts=3) as services:
            if attempt == 1:
                task = await submit(services)
                other = await submit(services, seed=5)
                await services.darkroom.cancel(other.id)
            async with asyncio.timeout(SECONDS):
                while (found := await services.darkroom.get(task.id)).attempt < min(attempt, 4):
                    await asyncio.sleep(0.005)
            if attempt < 4:
                attempts.append(found.attempt)
                await crash(services, engine)
                continue
            found = await ended(services, task)
    assert attempts == [1, 2, 3]
    assert found.state is TaskState.FAILED and found.error_kind == "gave_up"
    assert found.error_message == "gave up after 3 attempts"


async def test_a_task_that_kills_its_workers_takes_no_other_with_it(serve: Serve) -> None:
    tasks: list[Task] = []
    for attempt in (1, 2, 3):
        engine = ScriptedEngine()
        engine.gate.clear()
        async with serve(engine, max_attempts=3) as services:
            tasks = tasks or [await submit(services), await submit(services, seed=5)]
            running = tasks[: 1 if attempt == 3 else 2]
            async with asyncio.timeout(SECONDS):
                while len(engine.orders) < len(running):
                    await asyncio.sleep(0.005)
            # time enough for one too many
            await asyncio.sleep(0.1)
            assert [name for name, _ in engine.orders] == [task.id for task in running]
            await crash(services, engine)
    async with serve(ScriptedEngine(), max_attempts=3) as services:
        states = [(await ended(services, task)).state for task in tasks]
        after = await ended(services, await submit(services))
    assert states == [TaskState.FAILED, TaskState.SUCCEEDED]
    assert after.state is TaskState.SUCCEEDED


async def test_a_last_try_waits_for_what_runs_and_what_comes_waits_for_it(
    serve: Serve, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = engine.submit, [5]

    def breaks_once(job: Job, *given: Any) -> None:
        if list(job.seeds) == broken:
            raise RuntimeError(f"a fault of ours, with seed {broken.pop()}")
        real(job, *given)

    monkeypatch.setattr(engine, "submit", breaks_once)
    engine.gate.clear()
    async with serve(engine, max_attempts=2) as services:
        beside = await submit(services)
        await until_running(services, beside)
        last = await submit(services, seed=5)
        async with asyncio.timeout(SECONDS):
            while (await services.darkroom.get(last.id)).attempt < 2:
                await asyncio.sleep(0.005)
        late = await submit(services, seed=6)
        # time enough for one too many
        await asyncio.sleep(0.1)
        assert [name for name, _ in engine.orders] == [beside.id]
        engine.gate.set()
        for task in (beside, last, late):
            assert (await ended(services, task)).state is TaskState.SUCCEEDED
    assert [name for name, _ in engine.orders] == [beside.id, last.id, late.id]


async def test_a_drain_puts_back_what_does_not_finish(serve: Serve, engine: ScriptedEngine) -> None:
    first = ScriptedEngine()
    first.gate.clear()
    async with serve(first, drain_seconds=0.2, max_attempts=1) as services:
        tasks = [await submit(services, count=2) for _ in range(3)]
        await until_running(services, tasks[2])
    async with serve(engine, max_attempts=1) as services:
        for task in tasks:
            done = await ended(services, task)
            assert done.state is TaskState.SUCCEEDED and done.attempt == 2


async def test_a_drain_lets_finish_what_can(serve: Serve) -> None:
    slow = ScriptedEngine(picture_seconds=0.2)
    async with serve(slow, drain_seconds=SECONDS) as services:
        task = await submit(services, count=2)
        await until_running(services, task)
        closing = asyncio.create_task(services.dispatcher.close())
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="shutting down"):
            await submit(services)
        assert not (await services.darkroom.health()).ready
        await closing
        assert (await services.darkroom.get(task.id)).state is TaskState.SUCCEEDED


class Flaky(LocalStorage):
    """Real storage on a medium that fails for a while."""

    failures = 0

    async def put(self, key: str, data: bytes) -> None:
        if self.failures > 0:
            self.failures -= 1
            (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / key).write_bytes(data[:10])
            raise Unavailable("no space")
        await super().put(key, data)


async def test_a_picture_outlasts_a_full_disk(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flaky = Flaky(tmp_path / "data" / "objects")
    flaky.failures = 3
    workshop = services.dispatcher._shop
    monkeypatch.setattr(services.dispatcher, "_shop", replace(workshop, storage=flaky))
    task = await ended(services, await submit(services))
    assert task.state is TaskState.SUCCEEDED and flaky.failures == 0
    data = (await services.darkroom.image(task.id, 0)).data
    assert len(data) == task.outputs[0].size_bytes


async def test_a_database_that_fails_for_a_while_loses_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_add, real_finish, real_claim = Store.add_output, Store.finish, Store.claim
    failures = {"add": 2, "finish": 2, "claim": 1}

    def broken(name: str) -> None:
        if failures[name]:
            failures[name] -= 1
            raise Unavailable("the database is locked")

    async def add(self: Store, holding: object, output: Output) -> bool:
        broken("add")
        return await real_add(self, holding, output)  # type: ignore[arg-type]

    async def finish(self: Store, *given: object, **named: object) -> Task | None:
        broken("finish")
        return await real_finish(self, *given, **named)  # type: ignore[arg-type]

    async def claim(self: Store, *given: object, **named: object) -> object:
        broken("claim")
        return await real_claim(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add_output", add)
    monkeypatch.setattr(Store, "finish", finish)
    monkeypatch.setattr(Store, "claim", claim)
    task = await ended(services, await submit(services, count=2))
    assert task.state is TaskState.SUCCEEDED and set(failures.values()) == {0}


async def test_a_run_that_breaks_is_tried_again_then_given_up(
    services: Services, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(engine, "submit", explode)
    task = await ended(services, await submit(services))
    assert (task.state, task.error_kind) == (TaskState.FAILED, "gave_up")
    monkeypatch.undo()
    assert (await ended(services, await submit(services))).state is TaskState.SUCCEEDED


async def test_a_loop_outlives_its_errors(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = Store.claim, [True]

    async def claim(self: Store, *given: object, **named: object) -> object:
        if broken and broken.pop():
            raise RuntimeError("a fault of ours")
        return await real(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "claim", claim)
    assert (await ended(services, await submit(services))).state is TaskState.SUCCEEDED
    assert not broken
