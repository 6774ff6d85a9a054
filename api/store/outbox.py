"""Messages to receivers: kept with what they tell of, claimed when due, tried until settled."""

from __future__ import annotations

import re
import secrets
import string
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Insert, Row, Update, and_, func, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms
from api.store.database import Database
from api.store.hooks import Hook, count_outcome
from api.store.schema import outbox

BASE62 = string.digits + string.ascii_letters
ID_CHARS = 27
# Stands in `last_error` while a message is out, so that a restart can tell a lease from a pause.
UNDER_WAY = "being delivered"
MAX_ERROR_CHARS = 200


class MessageState(StrEnum):
    """waiting → delivered | failed; `resend` leads back to waiting."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to one receiver; times are milliseconds since the epoch.

    `hook_id` names the registered webhook that it is for, if it is for one. `attempts` counts those
    begun and is the fence. `next_ms` is when it is due, None once settled.
    """

    id: str
    task_id: str
    account: str
    dialect: str
    url: str
    state: MessageState
    attempts: int
    next_ms: int | None
    last_status: int | None
    last_error: str | None
    hook_id: str | None = None
    created_ms: int

    @property
    def is_out(self) -> bool:
        """Whether it is being delivered at this moment, as far as is known."""
        return self.state is MessageState.WAITING and self.last_error == UNDER_WAY

    @property
    def origin(self) -> str:
        """Scheme, host and port of the receiver."""
        return _origin(self.url)


def new_message_id() -> str:
    """An id that nobody can guess: 160 random bits."""
    return "msg_" + "".join(secrets.choice(BASE62) for _ in range(ID_CHARS))


def insert_messages(
    task_id: str,
    account: str,
    dialect: str,
    urls: Collection[str],
    now_ms: int,
    *,
    hooks: Collection[Hook] = (),
) -> Insert:
    """A message to each URL and each hook, at least one; for the transaction that it tells of.

    All are due now. The URLs are as `Outbound.check_url` gives them; one that comes twice is told
    once, but a hook is told whoever else is.
    """
    receivers: list[tuple[str, str | None]] = [(url, None) for url in dict.fromkeys(urls)]
    receivers += [(hook.url, hook.id) for hook in hooks]
    assert receivers, "an insert of no rows would insert an empty one"
    common = {"task_id": task_id, "account": account, "dialect": dialect, "attempts": 0}
    common |= {"state": MessageState.WAITING, "next_ms": now_ms, "created_ms": now_ms}
    messages = [
        common | {"id": new_message_id(), "url": url, "hook_id": hook_id}
        for url, hook_id in receivers
    ]
    return insert(outbox).values(messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many messages are not settled; of these, how many are `due` and not out."""

    waiting: int
    due: int


class Outbox:
    """Messages in a database; every method raises Unavailable while that cannot be used.

    What is claimed is out until it is settled or its lease ends; nobody else gets it meanwhile.
    """

    def __init__(self, database: Database, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._database = database
        self._now_ms = now_ms

    async def claim_due(
        self,
        limit: int,
        *,
        lease_ms: int,
        excluding: Collection[str] = (),
        busy: Mapping[str, int] | None = None,
        per_origin: int | None = None,
    ) -> list[Message]:
        """Take messages that are due, longest due first, and count an attempt of each.

        Those in `excluding` are left alone. With `per_origin`, an origin gets no more than that,
        what `busy` counts of it included; a crowd of one origin hides no other's messages.
        """
        out = Counter(busy or {})
        full = [origin for origin, count in out.items() if per_origin and count >= per_origin]

        async def work(connection: AsyncConnection) -> list[Message]:
            now_ms = self._now_ms()
            due = [outbox.c.next_ms <= now_ms, outbox.c.id.not_in(excluding)]
            due += [not_(outbox.c.url.startswith(one + "/", autoescape=True)) for one in full]
            query = select(outbox.c.id, outbox.c.url).where(*due).limit(limit)
            query = query.with_for_update(skip_locked=True)
            rows = await connection.execute(query.order_by(outbox.c.next_ms, outbox.c.id))
            chosen = []
            for row in rows:
                origin = _origin(row.url)
                out[origin] += 1
                if per_origin is None or out[origin] <= per_origin:
                    chosen.append(row.id)
            return await _take(connection, chosen, now_ms, lease_ms) if chosen else []

        return await self._database.write(work)

    async def next_due_ms(self) -> int | None:
        """When the next message that is not due yet will be."""
        query = select(func.min(outbox.c.next_ms)).where(outbox.c.next_ms > self._now_ms())
        return await self._database.read(lambda connection: connection.scalar(query))

    async def any_due(self) -> bool:
        """Whether a message is due; spares a write where none is."""
        query = select(outbox.c.id).where(outbox.c.next_ms <= self._now_ms()).limit(1)
        return await self._database.read(lambda connection: connection.scalar(query)) is not None

    async def backlog(self) -> Backlog:
        """How much is still to be delivered, by whichever server."""
        is_due = outbox.c.next_ms <= self._now_ms()
        counts = select(func.count(), func.count().filter(is_due))
        query = counts.where(outbox.c.next_ms.is_not(None))

        async def work(connection: AsyncConnection) -> Backlog:
            waiting, due = (await connection.execute(query)).one()
            return Backlog(waiting=waiting, due=due)

        return await self._database.read(work)

    async def settle(
        self,
        message: Message,
        *,
        delivered: bool,
        again_ms: int | None = None,
        status: int | None = None,
        error: str | None = None,
    ) -> bool:
        """Note how an attempt ended, and whether another follows; False if it had been taken away.

        `again_ms` is the time of the next attempt; without one, what was not delivered has failed.
        What it was to a registered webhook counts for that.
        """
        state = MessageState.DELIVERED if delivered else MessageState.FAILED
        if again_ms is not None:
            assert not delivered, "what is delivered is not sent again"
            state = MessageState.WAITING
        statement = (
            update(outbox)
            .where(_held(message))
            .values(
                state=state,
                next_ms=again_ms,
                last_status=status,
                last_error=error and error[:MAX_ERROR_CHARS],
            )
        )

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(statement)).rowcount == 0:
                return False
            if message.hook_id is not None and state is not MessageState.WAITING:
                await count_outcome(connection, message.hook_id, delivered=delivered)
            return True

        return await self._database.write(work)

    async def release(self, message: Message) -> bool:
        """Give back a message whose attempt was cut short: due now, the attempt not counted."""
        statement = update(outbox).where(_held(message))
        fewer = {"attempts": outbox.c.attempts - 1, "next_ms": self._now_ms(), "last_error": None}
        return await self._execute(statement.values(fewer)) == 1

    async def release_leases(self) -> int:
        """Make all messages due that are out; only for who knows that nobody delivers them.

        Their attempts count: a message that takes the process down with it shall not do so forever.
        """
        statement = update(outbox).where(_is_out())
        return await self._execute(statement.values(next_ms=self._now_ms(), last_error=None))

    async def of_task(self, task_id: str) -> list[Message]:
        """The messages that tell of a task, oldest first."""
        query = select(outbox).where(outbox.c.task_id == task_id)
        query = query.order_by(outbox.c.created_ms, outbox.c.id)

        async def work(connection: AsyncConnection) -> list[Message]:
            return [_to_message(row) for row in await connection.execute(query)]

        return await self._database.read(work)

    async def resend(self, message_id: str) -> bool:
        """Send a message again from the start of its schedule, now; False if there is none.

        One that is out stays so.
        """

        async def work(connection: AsyncConnection) -> bool:
            same = outbox.c.id == message_id
            if await connection.scalar(select(outbox.c.id).where(same)) is None:
                return False
            again = update(outbox).where(same, not_(_is_out()))
            again = again.values(
                state=MessageState.WAITING, attempts=0, next_ms=self._now_ms(), last_error=None
            )
            await connection.execute(again)
            return True

        return await self._database.write(work)

    async def _execute(self, statement: Update) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).rowcount

        return await self._database.write(work)


async def _take(
    connection: AsyncConnection, ids: Sequence[str], now_ms: int, lease_ms: int
) -> list[Message]:
    taken = update(outbox).where(outbox.c.id.in_(ids))
    taken = taken.values(
        attempts=outbox.c.attempts + 1, next_ms=now_ms + lease_ms, last_error=UNDER_WAY
    )
    rows = await connection.execute(taken.returning(*outbox.c))
    return sorted((_to_message(row) for row in rows), key=lambda message: ids.index(message.id))


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return scheme + "://" + re.split("[/?#]", rest, maxsplit=1)[0]


def _is_out() -> Any:
    waiting = outbox.c.state == MessageState.WAITING
    return and_(waiting, func.coalesce(outbox.c.last_error, "") == UNDER_WAY)


def _held(message: Message) -> Any:
    return and_(_is_out(), outbox.c.id == message.id, outbox.c.attempts == message.attempts)


def _to_message(row: Row[Any]) -> Message:
    values = dict(row._mapping)
    return Message(**(values | {"state": MessageState(row.state)}))
