"""The durable queue: each method is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from sqlalchemy import ColumnElement, Insert, Update, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.idempotency import Once, Reply
from api.store import accepting, ledger, statements
from api.store import once as idempotency
from api.store.company import CANCELLING, announce
from api.store.database import Database
from api.store.hooks import hooks_to_tell
from api.store.outbox import insert_messages
from api.store.reading import load
from api.store.records import Accepted, Bounds, Claim, Counts, Holding, Submission
from api.store.rows import from_cursor, to_cursor
from api.store.schema import QUEUED, tasks
from api.tasks import Failure, Findings, Output, Task, TaskPage, TaskState
from inference.job import Job


class Store:
    """Tasks in a database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def close(self) -> None:
        """Let what runs end, then disconnect."""
        await self._database.close()

    async def accept(self, submission: Submission, bounds: Bounds) -> Accepted:
        """Keep a new task, queued and its price held, or find the one that it repeats.

        Raises QueueFull, Overloaded, NoCredits and IdempotencyMismatch, all judged in the
        transaction that keeps the task.
        """

        async def work(connection: AsyncConnection) -> Accepted:
            # The time is taken here, where transactions queue one behind the other, so that
            # tasks are listed and claimed in the order in which they were kept.
            now_ms = self._now_ms()
            if submission.once is not None:
                account = submission.job.account
                earlier = await accepting.earlier(connection, account, submission.once, now_ms)
                if earlier is not None:
                    return earlier
            await accepting.check_bounds(connection, submission, bounds)
            return await accepting.keep(connection, submission, now_ms)

        return await self._database.write(work, in_turn=True)

    async def check_bounds(self, submission: Submission, bounds: Bounds) -> None:
        """Raise QueueFull or Overloaded if `accept` would now, without writing."""
        await self._database.read(lambda c: accepting.check_bounds(c, submission, bounds))

    async def earlier(self, account: str, once: Once) -> Accepted | None:
        """The task of the first request that counts once; raises IdempotencyMismatch."""
        return await self._database.read(
            lambda c: accepting.earlier(c, account, once, self._now_ms())
        )

    async def answer(self, account: str, once: Once, reply: Reply) -> None:
        """Write down what a request that counts once was answered."""
        await self._database.write(lambda c: idempotency.answer(c, account, once, reply))

    async def get(self, task_id: str) -> Task | None:
        """The task, if there is one."""
        found = await self._database.read(lambda c: load(c, tasks.c.id == task_id))
        return found[0] if found else None

    async def list(
        self,
        *,
        account: str,
        state: TaskState | None,
        limit: int,
        cursor: str | None,
        dialect: str | None = None,
    ) -> TaskPage:
        """Tasks of an account, newest first; raises BadRequest for a foreign cursor."""
        wanted: list[ColumnElement[bool]] = [tasks.c.account == account]
        if dialect is not None:
            wanted.append(tasks.c.dialect == dialect)
        if state is not None:
            wanted.append(tasks.c.state == state)
        if cursor is not None:
            wanted.append(tuple_(tasks.c.created_ms, tasks.c.id) < tuple_(*from_cursor(cursor)))
        found = await self._database.read(lambda c: load(c, *wanted, limit=limit + 1))
        page = tuple(found[:limit])
        return TaskPage(tasks=page, next_cursor=to_cursor(page[-1]) if len(found) > limit else None)

    async def counts(self) -> Counts:
        """How much has not ended."""

        async def work(connection: AsyncConnection) -> Counts:
            rows = (await connection.execute(statements.unfinished_by_state())).all()
            found = {state: (count, images) for state, count, images in rows}
            queued, running = (
                found.get(state, (0, 0)) for state in (TaskState.QUEUED, TaskState.RUNNING)
            )
            return Counts(
                queued_tasks=queued[0], running_tasks=running[0], images=queued[1] + running[1]
            )

        return await self._database.read(work)

    async def position(self, task: Task) -> int | None:
        """How many queued tasks come before this one; None once it is not queued."""

        async def work(connection: AsyncConnection) -> int | None:
            if not await connection.scalar(
                select(func.count()).where(QUEUED, tasks.c.id == task.id)
            ):
                return None
            return await connection.scalar(statements.ahead_of(task))

        return await self._database.read(work)

    async def claim(
        self,
        worker: str,
        *,
        lease_ms: int,
        running_here: Collection[str] = (),
        takes_over: bool = True,
    ) -> Claim | None:
        """The next task to run, leased to `worker`: a queued one or one whose lease ran out.

        Tasks in `running_here` are left alone, whatever their lease says; and those of others,
        unless it `takes_over` or they were given back.
        """

        async def work(connection: AsyncConnection) -> Claim | None:
            claimed = statements.claim(
                worker,
                now_ms=self._now_ms(),
                lease_ms=lease_ms,
                running_here=running_here,
                takes_over=takes_over,
            )
            row = (await connection.execute(claimed)).one_or_none()
            if row is None:
                return None
            await announce(connection, row.id, row.state)
            if row.attempt == 1:
                await ledger.charge(connection, row.id, now_ms=self._now_ms())
            task = (await load(connection, tasks.c.id == row.id))[0]
            holding = Holding(task.id, worker, task.attempt)
            return Claim(task, holding, tries=row.attempt - row.releases)

        return await self._database.write(work)

    async def heartbeat(self, held: Collection[Holding], *, lease_ms: int) -> dict[str, bool]:
        """Extend the leases still held; by their ids, whether they are to be cancelled."""

        async def work(connection: AsyncConnection) -> dict[str, bool]:
            beat = statements.heartbeat(held, now_ms=self._now_ms(), lease_ms=lease_ms)
            return {row.id: row.cancel_requested for row in await connection.execute(beat)}

        return await self._database.write(work)

    async def add_output(self, holding: Holding, output: Output) -> bool:
        """Record a picture whose bytes are stored; False if the task is no longer held.

        A picture that is recorded already stays as it is.
        """

        return await self._record(holding, statements.insert_output(holding, output))

    async def add_failure(self, holding: Holding, failure: Failure) -> bool:
        """Record a picture that will not be made; False if the task is no longer held.

        A picture whose end is recorded already stays as it is.
        """
        return await self._record(holding, statements.insert_failure(holding, failure))

    async def note(self, holding: Holding, job: Job, findings: Findings) -> bool:
        """Record what came up while a task runs; False if it is no longer held."""
        return await self._execute(statements.note(holding, job, findings)) == 1

    async def finish(
        self,
        holding: Holding,
        state: TaskState,
        *,
        error_kind: str | None = None,
        error_message: str | None = None,
    ) -> Task | None:
        """End a held task; None if it is not held any more, or lacks what it takes to succeed.

        What it was charged for pictures that failed is given back.
        """
        return await self._change(
            holding.task_id,
            lambda now_ms: statements.finish(
                holding, state, now_ms=now_ms, error_kind=error_kind, error_message=error_message
            ),
        )

    async def request_cancel(self, task_id: str) -> Task | None:
        """Ask for a task's end, at once unless somebody runs it; None if it has ended."""
        return await self._change(
            task_id, lambda now_ms: statements.request_cancel(task_id, now_ms=now_ms)
        )

    async def release(self, held: Collection[Holding], *, counted: bool) -> None:
        """Give tasks back for the next claim; not `counted`, the claim is as if it never was."""
        await self._execute(statements.release(held, counted=counted))

    async def expire_leases(self) -> int:
        """End every lease and return how many; only for who knows that no other worker lives."""
        return await self._execute(statements.expire_leases())

    async def give_up_unread(self) -> tuple[Task, ...]:
        """Cancel what only its caller could get, if nobody runs it, and return that."""
        query = statements.unfinished_in_reply()
        found = (await self._database.read(lambda connection: connection.execute(query))).all()
        asked = await asyncio.gather(*(self.request_cancel(row.id) for row in found))
        return tuple(task for task in asked if task is not None and task.state.ended)

    async def check_writable(self) -> None:
        """Raise Unavailable unless the database takes writes."""
        await self._execute(statements.release((), counted=True))

    async def _record(self, holding: Holding, insertion: Insert) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(insertion)).rowcount:
                await announce(connection, holding.task_id, TaskState.RUNNING)
                return True
            fence = select(func.count()).where(statements.held_by(holding))
            return bool(await connection.scalar(fence))

        return await self._database.write(work)

    async def _execute(self, statement: Update) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._database.write(work)

    async def _change(self, task_id: str, change: Callable[[int], Update]) -> Task | None:
        """The task after the statement, or None if that matched no row."""

        async def work(connection: AsyncConnection) -> Task | None:
            now_ms = self._now_ms()
            if (await connection.execute(change(now_ms))).rowcount == 0:
                return None
            task = (await load(connection, tasks.c.id == task_id))[0]
            await announce(connection, task_id, task.state if task.state.ended else CANCELLING)
            if task.state.ended:
                await _conclude(connection, task, now_ms)
            return task

        return await self._database.write(work)


async def _conclude(connection: AsyncConnection, task: Task, now_ms: int) -> None:
    """What else happens, in the same transaction, when a task ends."""
    if task.state is TaskState.FAILED or (task.state is TaskState.CANCELLED and not task.outputs):
        await ledger.give_back(connection, task.id, now_ms=now_ms)
    elif unused := task.credits - task.cost:
        await ledger.refund_part(connection, task.id, unused, now_ms=now_ms)
    urls, hooks = task.delivery.webhooks, await hooks_to_tell(connection, task)
    if urls or hooks:
        told = insert_messages(task.id, task.account, task.dialect, urls, now_ms, hooks=hooks)
        await connection.execute(told)
