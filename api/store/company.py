"""What transactions owe to those of other servers; on SQLite there are none, and one writer."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.store.schema import accounts

CHANNEL = "darkroom_tasks"
# Locks of a database are known by numbers: "DARK", and which of ours it is.
MIGRATING, ACCEPTING, LEADING = ((0x4441524B << 8) + number for number in range(3))
# Announced of a task beside its states: somebody wants it to end.
CANCELLING = "cancelling"


async def hold_account(connection: AsyncConnection, name: str) -> None:
    """Let no other transaction change an account, or count what it has, until the end."""
    # SQLite is not told to lock: whoever writes there is alone.
    row = select(accounts.c.name).where(accounts.c.name == name).with_for_update()
    await connection.execute(row)


async def announce(connection: AsyncConnection, task_id: str, word: str) -> None:
    """Tell all servers of a task, with the commit; `word` is its state or CANCELLING."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_notify(CHANNEL, f"{task_id} {word}")))
