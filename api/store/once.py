"""Idempotency keys: found and kept in the transaction that accepts a task."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.errors import IdempotencyMismatch
from api.idempotency import KEEP_MS, Once, Reply, dump_reply, load_reply
from api.store.schema import idempotency


@dataclass(frozen=True, slots=True)
class Earlier:
    """The task that the first request with a key made, and its reply once that is known."""

    task_id: str
    reply: Reply | None


async def find(
    connection: AsyncConnection, account: str, once: Once, *, now_ms: int
) -> Earlier | None:
    """The first request with this key, of the last day; raises IdempotencyMismatch."""
    query = select(idempotency).where(
        _is(account, once), idempotency.c.created_ms > now_ms - KEEP_MS
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    if row.fingerprint != once.fingerprint:
        raise IdempotencyMismatch(
            "this idempotency key came with another request before; send a new one",
            field="Idempotency-Key",
        )
    return Earlier(row.task_id, load_reply(row.reply) if row.reply is not None else None)


async def keep(
    connection: AsyncConnection,
    account: str,
    once: Once,
    *,
    task_id: str,
    reply: Reply | None,
    now_ms: int,
) -> None:
    """Remember a request that has just made a task, in place of one that is too old."""
    await connection.execute(delete(idempotency).where(_is(account, once)))
    await connection.execute(
        insert(idempotency).values(
            account=account,
            route=once.route,
            key=once.key,
            fingerprint=once.fingerprint,
            task_id=task_id,
            reply=dump_reply(reply) if reply is not None else None,
            created_ms=now_ms,
        )
    )


async def answer(connection: AsyncConnection, account: str, once: Once, reply: Reply) -> None:
    """Write down what the first request was answered; the first answer stays."""
    unanswered = and_(_is(account, once), idempotency.c.reply.is_(None))
    await connection.execute(update(idempotency).where(unanswered).values(reply=dump_reply(reply)))


def _is(account: str, once: Once) -> ColumnElement[bool]:
    return and_(
        idempotency.c.account == account,
        idempotency.c.route == once.route,
        idempotency.c.key == once.key,
    )
