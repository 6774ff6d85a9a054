"""The use cases, free of any dialect: submit, get, wait, list, watch, cancel, fetch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from api.accounts import NOBODY, Caller
from api.checks import Checks
from api.errors import ApiError, BadRequest, Gone, NotFound, NotReady
from api.idempotency import Once, Reply
from api.orders import Order, Quote
from api.store import Accepted, to_cursor
from api.tally import NO_TALLY
from api.tasks import Output, Task, TaskPage, TaskState, TaskUpdate
from api.watch import RECHECK_SECONDS, follow, until_ended

if TYPE_CHECKING:
    from api.dispatcher import Dispatcher
    from api.reception import Reception
    from api.settings import Settings
    from api.storage import Storage
    from api.store import Store
    from api.tally import Tally
    from api.watch import Updates

log = structlog.get_logger()

MAX_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A finished picture's bytes with the record of it."""

    output: Output
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How much has not ended, in tasks and in pictures, and what one picture lately took."""

    queued_tasks: int
    running_tasks: int
    unfinished_images: int
    seconds_per_image: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`checks` holds "ok" or the reason by the name of what was looked at."""

    ready: bool
    checks: Mapping[str, str]


class Darkroom:
    """What every dialect, the command line and the page enter through.

    Made by `api.build.build`; a route finds it at `desk.darkroom`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        storage: Storage,
        dispatcher: Dispatcher,
        updates: Updates,
        reception: Reception,
        tally: Tally = NO_TALLY,
    ) -> None:
        self._store = store
        self._storage = storage
        self._dispatcher = dispatcher
        self._updates = updates
        self._reception = reception
        self._tally = tally
        self._checks = Checks(settings, store, storage, dispatcher)

    async def submit(
        self,
        order: Order,
        caller: Caller = NOBODY,
        *,
        once: Once | None = None,
        answer: Callable[[Task], Reply] | None = None,
    ) -> Accepted:
        """Accept an order durably; raises Refused or ApiError, and then nothing is kept.

        An order that counts `once` and came before leads to the task that it made then. `answer`
        says what the caller is told of a new task, if that is known at once.
        """
        return await self._reception.accept(order, caller, once=once, answer=answer)

    def quote(self, order: Order, caller: Caller = NOBODY) -> Quote:
        """How an order would be made and what it would cost; raises as `submit` does at once."""
        return self._reception.quote(order, caller)

    async def answered(self, caller: Caller, once: Once, reply: Reply) -> None:
        """Write down what an order that counts once was answered in the end."""
        await self._store.answer(caller.account, once, reply)

    async def get(self, task_id: str, *, account: str = "") -> Task:
        """The task; raises NotFound."""
        task = await self._store.get(task_id)
        if task is None or task.account != account:
            raise NotFound("there is no such task")
        return task

    async def wait(self, task_id: str, *, timeout_seconds: float, account: str = "") -> Task:
        """The task once it has ended, or as it stands when the time is up; raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        with self._updates.subscribe(task_id, looks=False) as subscription:
            while True:
                task = await self.get(task_id, account=account)
                left_seconds = deadline - loop.time()
                if task.state.ended or left_seconds <= 0:
                    return task
                await until_ended(subscription, min(left_seconds, RECHECK_SECONDS))

    async def list(
        self,
        *,
        account: str = "",
        state: TaskState | None = None,
        dialect: str | None = None,
        limit: int = 20,
        cursor: str | None = None,
        after: Task | None = None,
    ) -> TaskPage:
        """Tasks, newest first, from a cursor on or `after` a task.

        Raises BadRequest for a cursor that this service did not give.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise BadRequest(f"limit must lie between 1 and {MAX_PAGE}", field="limit")
        if after is not None:
            cursor = to_cursor(after)
        return await self._store.list(
            account=account, state=state, dialect=dialect, limit=limit, cursor=cursor
        )

    async def watch(self, task_id: str, *, account: str = "") -> AsyncIterator[TaskUpdate]:
        """What happens to a task from now on, starting with its present state, to its end."""

        async def read() -> Task:
            return await self.get(task_id, account=account)

        with self._updates.subscribe(task_id, looks=True) as subscription:
            async for update in follow(subscription, read, self._store.position):
                yield update

    async def cancel(self, task_id: str, *, account: str = "") -> Task:
        """Cancel a queued task at once, a running one at its next step; an ended one stays."""
        task = await self.get(task_id, account=account)
        changed = await self._store.request_cancel(task_id)
        if changed is None:
            return await self.get(task_id, account=account)
        log.info("task_cancel_requested", task_id=task_id, state=changed.state.value)
        self._dispatcher.cancel(task_id)
        if changed.state.ended:
            self._tally.ended(changed)
            self._updates.publish(TaskUpdate(task_id=task.id, state=changed.state))
        return changed

    async def image(self, task_id: str, index: int, *, account: str = "") -> StoredImage:
        """A finished picture; raises NotFound, NotReady while there is none, Gone afterwards."""
        return await self._image(await self.get(task_id, account=account), index)

    async def linked_image(self, task_id: str, index: int) -> StoredImage:
        """The same for whoever holds a signed link, which the caller has verified."""
        task = await self._store.get(task_id)
        if task is None:
            raise NotFound("there is no such task")
        return await self._image(task, index)

    async def _image(self, task: Task, index: int) -> StoredImage:
        output = output_of(task, index)
        return StoredImage(output=output, data=await self._storage.get(output.key))

    async def queue(self) -> QueueStatus:
        """How much waits and runs."""
        counts = await self._store.counts()
        return QueueStatus(
            queued_tasks=counts.queued_tasks,
            running_tasks=counts.running_tasks,
            unfinished_images=counts.images,
            seconds_per_image=self._dispatcher.seconds_per_image,
        )

    async def health(self) -> Health:
        """Whether work would be taken and done now; never raises, busy is ready."""
        checks = await self._checks.all()
        return Health(ready=all(found == "ok" for found in checks.values()), checks=checks)

    async def settle(self) -> None:
        """Wait for what was being accepted when no more is."""
        await self._reception.settle()
        await self._checks.close()


def output_of(task: Task, index: int) -> Output:
    """The record of a picture that is there; raises NotFound, NotReady and Gone."""
    if not 0 <= index < len(task.job.seeds):
        raise NotFound(f"the task has no picture {index}")
    output = next((output for output in task.pictures if output.index == index), None)
    if output is None:
        raise _why_none(task, index)
    if task.files_deleted_ms is not None:
        raise Gone(f"picture {index} was deleted when its time was up")
    return output


def _why_none(task: Task, index: int) -> ApiError:
    for failure in task.failures:
        if failure.index == index:
            return NotFound(f"picture {index} could not be made: {failure.message}")
    if task.state.ended:
        return NotFound(f"there is no picture {index}: the task is {task.state}")
    return NotReady(f"picture {index} is not made; the task is {task.state}")
