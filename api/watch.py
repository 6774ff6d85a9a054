"""Tells whoever watches a task, inside this process, what happens to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from api.tasks import Task, TaskState, TaskUpdate

# How often the record is read again although nothing was published: positions move silently,
# and other processes publish nothing here.
POSITION_SECONDS = 1.0
RECHECK_SECONDS = 5.0


class Subscription:
    """What one watcher has not read yet.

    A slow reader loses progress, never a state or an output: of unread progress only the newest
    is kept for each picture, so that the backlog is bounded by the size of the task.
    """

    def __init__(self) -> None:
        self._unread: list[TaskUpdate] = []
        self._arrived = asyncio.Event()

    def push(self, update: TaskUpdate) -> None:
        """Add an update, in place of older progress of the same picture."""
        if update.step is not None:
            self._unread = [
                old for old in self._unread if old.step is None or old.index != update.index
            ]
        self._unread.append(update)
        self._arrived.set()

    async def next(self, timeout_seconds: float) -> TaskUpdate | None:
        """The oldest unread update, or None if none comes in time."""
        if not self._unread:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._unread.pop(0)


class Updates:
    """Fan-out of task updates to their watchers; but for `looked_at`, for the event loop only."""

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._on_end = on_end
        self._watchers: dict[str, set[Subscription]] = {}
        self._lookers: Counter[str] = Counter()

    def publish(self, update: TaskUpdate) -> None:
        """Tell everyone who watches the task, and whoever acts when one has ended."""
        if update.state.ended:
            self._on_end()
        for subscription in self._watchers.get(update.task_id, ()):
            subscription.push(update)

    def looked_at(self, task_id: str) -> bool:
        """Whether anyone would look at previews; may be asked on any thread."""
        return self._lookers[task_id] > 0

    @contextmanager
    def subscribe(self, task_id: str, *, looks: bool) -> Iterator[Subscription]:
        """Hear of everything published from now to the end of the block.

        `looks` asks for progress with previews, which the engine makes only then.
        """
        subscription = Subscription()
        self._watchers.setdefault(task_id, set()).add(subscription)
        self._lookers[task_id] += looks
        try:
            yield subscription
        finally:
            watchers = self._watchers[task_id]
            watchers.discard(subscription)
            self._lookers[task_id] -= looks
            if not watchers:
                del self._watchers[task_id], self._lookers[task_id]


async def until_ended(subscription: Subscription, timeout_seconds: float) -> None:
    """Return when the task is said to have ended, or when the time is up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while True:
                update = await subscription.next(timeout_seconds)
                if update is not None and update.state.ended:
                    return


async def follow(
    subscription: Subscription,
    read: Callable[[], Awaitable[Task]],
    position: Callable[[Task], Awaitable[int | None]],
) -> AsyncIterator[TaskUpdate]:
    """What happens to a task, from its present state to its end.

    States, outputs and failures are told from the record; what was published since says when to
    read it again, and carries the progress in between.
    """
    told = Told()
    while True:
        task = await read()
        waiting = task.state is TaskState.QUEUED
        for update in told.news(task, await position(task) if waiting else None):
            yield update
        if task.state.ended:
            return
        pause_seconds = POSITION_SECONDS if waiting else RECHECK_SECONDS
        while (heard := await subscription.next(pause_seconds)) and heard.step is not None:
            yield heard


class Told:
    """What a watcher knows of a task, so that nothing is told twice."""

    def __init__(self) -> None:
        self._state: TaskState | None = None
        self._position: int | None = None
        self._ended: set[int] = set()

    def news(self, task: Task, position: int | None) -> list[TaskUpdate]:
        """The updates that bring the watcher to the present record, in the order of events."""
        news = [
            TaskUpdate(task_id=task.id, state=TaskState.RUNNING, output=output)
            for output in task.pictures
            if output.index not in self._ended
        ]
        news += [
            TaskUpdate(task_id=task.id, state=TaskState.RUNNING, failure=failure)
            for failure in task.failures
            if failure.index not in self._ended
        ]
        if (task.state, position) != (self._state, self._position):
            state = TaskUpdate(
                task_id=task.id,
                state=task.state,
                position=position,
                error_message=task.error_message,
            )
            news = [*news, state] if task.state.ended else [state, *news]
        self._state, self._position = task.state, position
        self._ended.update(output.index for output in task.pictures)
        self._ended.update(failure.index for failure in task.failures)
        return news
