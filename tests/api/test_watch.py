"""The fan-out to watchers: nothing durable is lost, progress is thinned, nobody waits in vain."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from api.tasks import Extras, Task, TaskState, TaskUpdate
from api.watch import Subscription, Told, Updates, until_ended
from inference.job import ImageRequest
from tests.api.making import job_of, output_of

RUNNING = TaskUpdate(task_id="t", state=TaskState.RUNNING)


def progress(index: int, step: int) -> TaskUpdate:
    return replace(RUNNING, index=index, step=step, steps=9)


def task_in(state: TaskState, *, outputs: int = 0, allows_partial: bool = True) -> Task:
    return Task(
        id="t",
        dialect="darkroom",
        account="",
        state=state,
        request=ImageRequest(model="paint", prompt="x"),
        job=job_of("t", count=3),
        extras=Extras(allows_partial=allows_partial),
        credits=0,
        attempt=0,
        created_ms=0,
        started_ms=None,
        finished_ms=None,
        cancel_requested=False,
        error_kind=None,
        error_message="broke" if state is TaskState.FAILED else None,
        outputs=tuple(output_of("t", index) for index in range(outputs)),
    )


async def read_all(subscription: Subscription) -> list[TaskUpdate]:
    found = []
    while (update := await subscription.next(0.0)) is not None:
        found.append(update)
    return found


async def test_a_slow_reader_gets_the_newest_progress_and_everything_else() -> None:
    updates = Updates()
    with updates.subscribe("t", looks=True) as slow:
        for step in range(1000):
            updates.publish(progress(0, step))
            updates.publish(progress(1, step))
        updates.publish(replace(RUNNING, output=output_of("t", 0)))
        updates.publish(progress(1, 1000))
        updates.publish(replace(RUNNING, state=TaskState.SUCCEEDED))
        told = await read_all(slow)
    assert [(u.index, u.step, u.output is not None, u.state.value) for u in told] == [
        (0, 999, False, "running"),
        (None, None, True, "running"),
        (1, 1000, False, "running"),
        (None, None, False, "succeeded"),
    ]


async def test_watchers_come_and_go() -> None:
    updates = Updates()
    updates.publish(RUNNING)
    with updates.subscribe("t", looks=True) as one, updates.subscribe("t", looks=False) as two:
        with updates.subscribe("other", looks=False) as other:
            updates.publish(RUNNING)
            assert await other.next(0.0) is None
        assert await one.next(0.0) == await two.next(0.0) == RUNNING
        assert updates.looked_at("t") and not updates.looked_at("other")
        with updates.subscribe("t", looks=True):
            assert updates.looked_at("t")
        assert updates.looked_at("t")
    assert not updates.looked_at("t")


async def test_the_end_wakes_a_waiter_at_once() -> None:
    updates = Updates()
    loop = asyncio.get_running_loop()
    with updates.subscribe("t", looks=False) as subscription:
        waiter = asyncio.create_task(until_ended(subscription, 1000))
        await asyncio.sleep(0.01)
        updates.publish(progress(0, 1))
        await asyncio.sleep(0.01)
        assert not waiter.done()
        started = loop.time()
        updates.publish(replace(RUNNING, state=TaskState.FAILED))
        await waiter
        assert loop.time() - started < 60
        await until_ended(subscription, 0.01)


def test_news_are_told_once_and_in_order() -> None:
    told = Told()
    assert [u.position for u in told.news(task_in(TaskState.QUEUED), 4)] == [4]
    assert told.news(task_in(TaskState.QUEUED), 4) == []
    assert [u.position for u in told.news(task_in(TaskState.QUEUED), 3)] == [3]
    first = told.news(task_in(TaskState.RUNNING, outputs=1), None)
    assert [(u.state, u.output and u.output.index) for u in first] == [
        (TaskState.RUNNING, None),
        (TaskState.RUNNING, 0),
    ]
    last = told.news(task_in(TaskState.CANCELLED, outputs=3), None)
    assert [u.output.index for u in last if u.output] == [1, 2]
    assert last[-1].state is TaskState.CANCELLED


def test_of_all_or_nothing_pictures_are_news_at_a_good_end_alone() -> None:
    def news(state: TaskState) -> list[TaskUpdate]:
        told = Told()
        running = told.news(task_in(TaskState.RUNNING, outputs=3, allows_partial=False), None)
        assert [(u.state, u.output) for u in running] == [(TaskState.RUNNING, None)]
        return told.news(task_in(state, outputs=3, allows_partial=False), None)

    assert [u.output.index for u in news(TaskState.SUCCEEDED) if u.output] == [0, 1, 2]
    (failed,) = news(TaskState.FAILED)
    assert (failed.state, failed.output, failed.error_message) == (TaskState.FAILED, None, "broke")
