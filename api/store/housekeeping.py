"""The SQL of cleaning up: a few rows at a time, found through an index, then changed by key.

Whoever reads holds up the event loop, and whoever writes holds up all who write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.storage.keys import INPUTS, owner_of
from api.store.database import Database
from api.store.schema import UNFINISHED, idempotency, outbox, outputs, tasks, uploads
from api.tasks import TaskState
from inference.loras.spec import FETCHED

_FETCHED_NAME = re.compile(rf"{FETCHED}[0-9a-f]{{64}}")


@dataclass(frozen=True, slots=True)
class Expired:
    """How many tasks lost their pictures, and the keys of those."""

    tasks: int
    keys: tuple[str, ...]


class HousekeepingStore:
    """What may go, by the database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def expire_files(self, *, ended_before_ms: int, limit: int) -> Expired:
        """Mark the pictures of tasks that ended before then as deleted, the oldest first."""
        old = (
            select(tasks.c.id)
            .where(tasks.c.files_deleted_ms.is_(None), tasks.c.finished_ms < ended_before_ms)
            .order_by(tasks.c.finished_ms)
            .limit(limit)
        )

        async def find(connection: AsyncConnection) -> Sequence[str]:
            return (await connection.execute(old)).scalars().all()

        found = await self._database.read(find)
        if not found:
            return Expired(0, ())
        marked = (
            update(tasks)
            .where(tasks.c.id.in_(found), tasks.c.files_deleted_ms.is_(None))
            .values(files_deleted_ms=self._now_ms())
        )
        named = select(outputs.c.key).where(outputs.c.task_id.in_(found))

        async def mark(connection: AsyncConnection) -> Expired:
            await connection.execute(marked)
            return Expired(len(found), tuple((await connection.execute(named)).scalars()))

        return await self._database.write(mark)

    async def unneeded(self, keys: Collection[str], *, ended_before_ms: int) -> list[str]:
        """Which of these objects nobody will ask for again.

        Nothing of a task that has not ended is. Of one that has, a picture is unless a row names
        it, it is not marked as deleted and its task did not fail; an input is if the end was before
        then.
        """
        ids = {owner_of(key) for key in keys}
        columns = tasks.c.id, tasks.c.state, tasks.c.finished_ms, tasks.c.files_deleted_ms
        owners = select(*columns).where(tasks.c.id.in_(ids))
        names = select(outputs.c.key).where(outputs.c.key.in_(keys))

        async def work(connection: AsyncConnection) -> list[str]:
            # Both in one transaction: a task that ends in between would seem to name no picture.
            found: dict[str, Any] = {row.id: row for row in await connection.execute(owners)}
            named = set((await connection.execute(names)).scalars())
            return [
                key
                for key in keys
                if _is_unneeded(key, found.get(owner_of(key)), key in named, ended_before_ms)
            ]

        return await self._database.read(work)

    async def expire_uploads(self, *, limit: int) -> tuple[str, ...]:
        """Forget that many uploads whose time is up, and return the keys of their bytes."""
        old = uploads.c.expires_ms <= self._now_ms()
        wanted = select(uploads.c.id).where(old).order_by(uploads.c.expires_ms).limit(limit)

        async def find(connection: AsyncConnection) -> Sequence[str]:
            return (await connection.execute(wanted)).scalars().all()

        found = await self._database.read(find)
        if not found:
            return ()
        gone = delete(uploads).where(uploads.c.id.in_(found), old).returning(uploads.c.key)

        async def forget(connection: AsyncConnection) -> tuple[str, ...]:
            return tuple((await connection.execute(gone)).scalars())

        return await self._database.write(forget)

    async def unnamed_uploads(self, keys: Collection[str]) -> list[str]:
        """Which of these objects no upload names."""
        names = select(uploads.c.key).where(uploads.c.key.in_(keys))

        async def work(connection: AsyncConnection) -> list[str]:
            named = set((await connection.execute(names)).scalars())
            return [key for key in keys if key not in named]

        return await self._database.read(work)

    async def fetched_loras(self) -> set[str]:
        """The names of fetched LoRAs that tasks which have not ended hold, and maybe a few more."""
        wanted = select(tasks.c.job).where(UNFINISHED, tasks.c.job.contains(f'"{FETCHED}'))

        async def find(connection: AsyncConnection) -> set[str]:
            jobs = (await connection.execute(wanted)).scalars()
            return {name for job in jobs for name in _FETCHED_NAME.findall(job)}

        return await self._database.read(find)

    async def forget_idempotency(self, *, before_ms: int, limit: int) -> int:
        """Drop that many keys that were first sent before then."""
        columns = idempotency.c.account, idempotency.c.route, idempotency.c.key
        old = idempotency.c.created_ms < before_ms
        wanted = select(*columns).where(old).limit(limit)

        async def find(connection: AsyncConnection) -> list[tuple[str, str, str]]:
            return [(row[0], row[1], row[2]) for row in await connection.execute(wanted)]

        found = await self._database.read(find)
        gone = delete(idempotency).where(tuple_(*columns).in_(found), old)
        return await self._change(gone) if found else 0

    async def forget_messages(self, *, before_ms: int, limit: int) -> int:
        """Drop that many webhooks that were made before then and need no more trying."""
        # By their making: the schedule of tries ends within days of it.
        done = outbox.c.next_ms.is_(None), outbox.c.state != "waiting"
        old = select(outbox.c.id).where(*done, outbox.c.created_ms < before_ms)
        wanted = old.order_by(outbox.c.created_ms).limit(limit)

        async def find(connection: AsyncConnection) -> Sequence[str]:
            return (await connection.execute(wanted)).scalars().all()

        found = await self._database.read(find)
        gone = delete(outbox).where(outbox.c.id.in_(found), *done)
        return await self._change(gone) if found else 0

    async def _change(self, statement: Any) -> int:
        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(statement)).rowcount)

        return await self._database.write(work)


def _is_unneeded(key: str, task: Any, named: bool, ended_before_ms: int) -> bool:
    if task is None:
        return True
    if not TaskState(task.state).ended:
        return False
    if key.startswith(f"{INPUTS}/"):
        return bool(task.finished_ms < ended_before_ms)
    return not named or task.state == TaskState.FAILED or task.files_deleted_ms is not None
