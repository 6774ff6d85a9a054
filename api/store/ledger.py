"""Credits: every change of a balance is a line, written in the transaction that causes it.

A task holds its price when it is accepted, is charged when it first runs, and gets the price back
when it ends any other way than well, or that of its pictures that failed when the others were made.
Each happens once: the line's task and kind are unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.accounts import Key, Period
from api.errors import NoCredits
from api.store.company import hold_account
from api.store.schema import accounts, ledger


async def hold(
    connection: AsyncConnection,
    *,
    account: str,
    key: Key | None,
    task_id: str,
    credits: int,
    now_ms: int,
) -> None:
    """Set a task's price aside; raises NoCredits, by the balance or by the key's spending limit."""
    if credits == 0:
        return
    if key is not None:
        await _check_spending(connection, key, credits, now_ms)
    affordable = or_(~accounts.c.metered, accounts.c.balance >= credits)
    await write_line(
        connection,
        account=account,
        key_id=key.id if key is not None else None,
        task_id=task_id,
        kind="hold",
        amount=-credits,
        held=credits,
        now_ms=now_ms,
        only_if=affordable,
    )


async def charge(connection: AsyncConnection, task_id: str, *, now_ms: int) -> None:
    """Turn what a task holds into what it costs, once."""
    await _follow_up(connection, task_id, {"hold"}, "charge", now_ms=now_ms)


async def give_back(connection: AsyncConnection, task_id: str, *, now_ms: int) -> None:
    """Release what a task holds, or refund what it was charged, once."""
    await _follow_up(connection, task_id, {"hold"}, "release", now_ms=now_ms)
    await _follow_up(connection, task_id, {"hold", "charge"}, "refund", now_ms=now_ms)


async def refund_part(
    connection: AsyncConnection, task_id: str, credits: int, *, now_ms: int
) -> None:
    """Refund some of what a task was charged, once, and never beside the whole.

    Of a price that was forgiven there is no such line: it would read as a refund of the whole.
    """
    lines = await _lines(connection, task_id, {"hold", "charge"})
    if lines is None or await _is_forgiven(connection, lines[0].account, lines[0].id):
        return
    await write_line(
        connection,
        account=lines[0].account,
        key_id=lines[0].key_id,
        task_id=task_id,
        kind="refund",
        amount=credits,
        note="of pictures that failed",
        now_ms=now_ms,
    )


async def write_line(
    connection: AsyncConnection,
    *,
    account: str,
    kind: str,
    amount: int,
    now_ms: int,
    held: int = 0,
    key_id: str | None = None,
    task_id: str | None = None,
    note: str = "",
    only_if: ColumnElement[bool] | None = None,
) -> None:
    """Change a balance and write down why; raises NoCredits if `only_if` does not hold."""
    change = update(accounts).where(accounts.c.name == account)
    if only_if is not None:
        change = change.where(only_if)
    moved = change.values(balance=accounts.c.balance + amount, held=accounts.c.held + held)
    if (await connection.execute(moved)).rowcount == 0:
        balance = await connection.scalar(
            select(accounts.c.balance).where(accounts.c.name == account)
        )
        raise NoCredits(f"this costs {-amount} credits and the balance is {balance or 0}")
    await connection.execute(
        insert(ledger).values(
            account=account,
            key_id=key_id,
            task_id=task_id,
            kind=kind,
            amount=amount,
            held=held,
            note=note[:200],
            created_ms=now_ms,
        )
    )


async def spent(connection: AsyncConnection, key_id: str, since_ms: int) -> int:
    """What a key's tasks of since a moment have cost or still hold.

    What a task got back counts in the period in which it was held, or a refund on the first of a
    month would add to what may be spent in it.
    """
    of_key = and_(ledger.c.key_id == key_id, ledger.c.created_ms >= since_ms)
    held = select(func.coalesce(func.sum(ledger.c.held), 0)).where(of_key, ledger.c.kind == "hold")
    # Few tasks fail: to ask for what came back takes 35 ms of 100,000 tasks, to ask of each
    # whether it did 80 ms.
    hold = ledger.alias()
    # A line that gives nothing is of what was forgiven: then the whole came back.
    came_back = case((ledger.c.amount > 0, ledger.c.amount), else_=hold.c.held)
    given_back = (
        select(func.coalesce(func.sum(came_back), 0))
        .join_from(ledger, hold, and_(hold.c.task_id == ledger.c.task_id, hold.c.kind == "hold"))
        .where(of_key, ledger.c.kind.in_(("release", "refund")), hold.c.created_ms >= since_ms)
    )
    back = await connection.scalar(given_back)
    # PostgreSQL sums big integers to a decimal.
    return int((await connection.scalar(held) or 0) - (back or 0))


def bounds_of(period: Period, now_ms: int) -> tuple[int, int]:
    """When the present day or month began and when the next will, in UTC milliseconds."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    first = now.replace(hour=0, minute=0, second=0, microsecond=0)
    later = first + timedelta(days=1)
    if period is Period.MONTH:
        first = first.replace(day=1)
        later = (first + timedelta(days=31)).replace(day=1)
    return int(first.timestamp() * 1000), int(later.timestamp() * 1000)


async def _check_spending(connection: AsyncConnection, key: Key, credits: int, now_ms: int) -> None:
    if key.spend_limit is None:
        return
    since_ms, _ = bounds_of(key.spend_period, now_ms)
    used = await spent(connection, key.id, since_ms)
    if used + credits > key.spend_limit:
        left = max(key.spend_limit - used, 0)
        raise NoCredits(
            f"this costs {credits} credits; of the {key.spend_limit} that this key may spend a "
            f"{key.spend_period.value}, {left} are left"
        )


# What each follow-up does with a price of n: to the balance, and to what is held.
_MOVES = {"charge": (0, -1), "release": (1, -1), "refund": (1, 0)}


async def _follow_up(
    connection: AsyncConnection, task_id: str, after: set[str], kind: str, *, now_ms: int
) -> None:
    """Write a task's next line if its lines so far are exactly those of `after`."""
    lines = await _lines(connection, task_id, after)
    if lines is None:
        return
    first = lines[0]
    balance, held = _MOVES[kind]
    if balance and await _is_forgiven(connection, first.account, first.id):
        balance = 0
    await write_line(
        connection,
        account=first.account,
        key_id=first.key_id,
        task_id=task_id,
        kind=kind,
        amount=balance * first.held,
        held=held * first.held,
        now_ms=now_ms,
    )


async def _lines(
    connection: AsyncConnection, task_id: str, kinds: set[str]
) -> Sequence[Row[Any]] | None:
    """A task's lines, its hold first, if they are exactly those; else None."""
    query = select(ledger).where(ledger.c.task_id == task_id).order_by(ledger.c.id)
    lines = (await connection.execute(query)).all()
    return lines if {line.kind for line in lines} == kinds else None


async def _is_forgiven(connection: AsyncConnection, account: str, line_id: int) -> bool:
    """Whether what a line took has been given back already, when the account got its meter."""
    await hold_account(connection, account)
    query = select(ledger.c.id).where(
        ledger.c.account == account, ledger.c.id > line_id, ledger.c.kind == "forgiven"
    )
    return await connection.scalar(query.limit(1)) is not None
