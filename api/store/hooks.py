"""The SQL of registered webhooks: addresses that are told of every task of an account."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.store.company import hold_account
from api.store.database import Database
from api.store.schema import hooks, outbox
from api.tasks import Task, TaskState

# So many messages that failed one after another, and the webhook is turned off.
MOST_FAILURES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A registered webhook; `secret` is in no repr, `events` None are all.

    `failures` counts the messages that have failed since the last that did not.
    """

    id: str
    account: str
    dialect: str
    url: str
    secret: str = field(repr=False)
    events: tuple[str, ...] | None = None
    enabled: bool = True
    failures: int = 0
    created_ms: int = 0
    updated_ms: int = 0

    def wants(self, event: str) -> bool:
        """Whether it is told of an event; "*.failed" is any that ends so."""
        return self.events is None or not {event, f"*.{event.partition('.')[2]}"}.isdisjoint(
            self.events
        )


def event_of(task: Task) -> str:
    """What an ended task is to those who registered for it, such as "generate.completed"."""
    end = "completed" if task.state is TaskState.SUCCEEDED else "failed"
    return f"{task.extras.kind}.{end}"


async def hooks_to_tell(connection: AsyncConnection, task: Task) -> list[Hook]:
    """The registered webhooks that an ended task is told to."""
    if not task.extras.tells_hooks:
        return []
    enabled = select(hooks).where(_of(task.account, task.dialect), hooks.c.enabled)
    found = map(_to_hook, await connection.execute(enabled.order_by(hooks.c.created_ms)))
    return [hook for hook in found if hook.wants(event_of(task))]


async def count_outcome(connection: AsyncConnection, hook_id: str, *, delivered: bool) -> None:
    """Note that a message was delivered or has failed for good; the last failure turns it off."""
    more = hooks.c.failures + 1
    changes: dict[str, Any] = {"failures": 0}
    if not delivered:
        still = case((more >= MOST_FAILURES, False), else_=hooks.c.enabled)
        changes = {"failures": more, "enabled": still}
    await connection.execute(update(hooks).where(hooks.c.id == hook_id).values(changes))


class HookStore:
    """Webhooks in a database; every method raises Unavailable while that cannot be used."""

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def insert(self, hook: Hook, *, most: int) -> Hook | None:
        """Keep a new one, as it is returned; None if there are `most` already."""
        now_ms = self._now_ms()
        row = insert(hooks).values(
            id=hook.id,
            account=hook.account,
            dialect=hook.dialect,
            url=hook.url,
            secret=hook.secret,
            events=_dump(hook.events),
            enabled=hook.enabled,
            failures=0,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        count = select(func.count()).where(_of(hook.account, hook.dialect))

        async def work(connection: AsyncConnection) -> Hook | None:
            await hold_account(connection, hook.account)
            if (await connection.scalar(count) or 0) >= most:
                return None
            return _to_hook((await connection.execute(row.returning(*hooks.c))).one())

        return await self._database.write(work)

    async def replace(self, hook: Hook) -> Hook | None:
        """Another address and other events under an id; None if there is none.

        What waits to be sent goes to the new address. Its failures are forgotten.
        """
        changed = update(hooks).where(_same(hook.account, hook.dialect, hook.id))
        changed = changed.values(
            url=hook.url,
            events=_dump(hook.events),
            enabled=hook.enabled,
            failures=0,
            updated_ms=self._now_ms(),
        )
        waiting = update(outbox).where(outbox.c.hook_id == hook.id, outbox.c.next_ms.is_not(None))

        async def work(connection: AsyncConnection) -> Hook | None:
            row = (await connection.execute(changed.returning(*hooks.c))).one_or_none()
            if row is None:
                return None
            await connection.execute(waiting.values(url=hook.url))
            return _to_hook(row)

        return await self._database.write(work)

    async def list(self, account: str, dialect: str) -> tuple[Hook, ...]:
        """All of an account's that were registered by one dialect, oldest first."""
        query = select(hooks).where(_of(account, dialect))
        query = query.order_by(hooks.c.created_ms, hooks.c.id)

        async def work(connection: AsyncConnection) -> tuple[Hook, ...]:
            return tuple(map(_to_hook, await connection.execute(query)))

        return await self._database.read(work)

    async def get(self, account: str, dialect: str, hook_id: str) -> Hook | None:
        """The one of that id, if it is the account's."""
        return await self._one(_same(account, dialect, hook_id))

    async def enabled(self, hook_id: str) -> Hook | None:
        """The one of that id, whoever's it is, unless it is turned off."""
        return await self._one(and_(hooks.c.id == hook_id, hooks.c.enabled))

    async def delete(self, account: str, dialect: str, hook_id: str) -> bool:
        """Forget one; False if there was none."""
        gone = delete(hooks).where(_same(account, dialect, hook_id))

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(gone)).rowcount > 0

        return await self._database.write(work)

    async def _one(self, wanted: ColumnElement[bool]) -> Hook | None:
        async def work(connection: AsyncConnection) -> Hook | None:
            row = (await connection.execute(select(hooks).where(wanted))).one_or_none()
            return None if row is None else _to_hook(row)

        return await self._database.read(work)


def _of(account: str, dialect: str) -> ColumnElement[bool]:
    return and_(hooks.c.account == account, hooks.c.dialect == dialect)


def _same(account: str, dialect: str, hook_id: str) -> ColumnElement[bool]:
    return and_(_of(account, dialect), hooks.c.id == hook_id)


def _dump(events: tuple[str, ...] | None) -> str | None:
    return None if events is None else json.dumps(events)


def _to_hook(row: Row[Any]) -> Hook:
    events = None if row.events is None else tuple(json.loads(row.events))
    return Hook(**(dict(row._mapping) | {"events": events}))
