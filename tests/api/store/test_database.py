"""Writes that share a commit: each is whole or not at all, whatever its company does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.errors import QueueFull
from api.store import migrate_sqlite, sqlite_database
from api.store.database import Database
from api.store.schema import ledger


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    migrate_sqlite(tmp_path / "darkroom.db")
    opened = sqlite_database(tmp_path / "darkroom.db")
    yield opened
    await opened.close()


def line(task_id: str, refusal: Exception | None = None):  # type: ignore[no-untyped-def]
    """A unit that writes one line, and then perhaps thinks better of it."""

    async def work(connection: AsyncConnection) -> str:
        values = {"account": "", "kind": "grant", "amount": 1, "held": 0, "note": ""}
        values |= {"task_id": task_id, "created_ms": 0}
        await connection.execute(insert(ledger).values(**values))
        if refusal is not None:
            raise refusal
        return task_id

    return work


async def kept(database: Database) -> list[str]:
    async def work(connection: AsyncConnection) -> list[str]:
        rows = await connection.execute(select(ledger.c.task_id).order_by(ledger.c.task_id))
        return [row.task_id for row in rows]

    return await database.read(work)


async def test_what_comes_together_shares_a_commit(database: Database) -> None:
    commits = []
    event.listen(database._writer, "commit", commits.append)
    names = [f"{number:02}" for number in range(40)]
    assert await asyncio.gather(*(database.write(line(name)) for name in names)) == names
    assert await kept(database) == names
    assert len(commits) < 10


@pytest.mark.parametrize("error", [QueueFull("no"), ValueError("a bug")])
async def test_one_that_raises_leaves_nothing_and_harms_nobody(
    database: Database, error: Exception
) -> None:
    units = [line("a"), line("b", error), line("c")]
    told = await asyncio.gather(*map(database.write, units), return_exceptions=True)
    assert told == ["a", error, "c"]
    assert await kept(database) == ["a", "c"]


async def test_one_that_breaks_a_constraint_harms_nobody(database: Database) -> None:
    units = [line("a"), line("a"), line("c")]
    first, second, third = await asyncio.gather(*map(database.write, units), return_exceptions=True)
    assert (first, third) == ("a", "c")
    assert isinstance(second, IntegrityError)
    assert await kept(database) == ["a", "c"]


async def test_who_leaves_is_served_and_the_next_too(database: Database) -> None:
    leaving = [asyncio.create_task(database.write(line(name))) for name in "abc"]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert await database.write(line("d")) == "d"
    assert await kept(database) == ["a", "b", "c", "d"]


async def test_a_write_that_was_given_up_does_not_stop_the_others(database: Database) -> None:
    """As when the loop that runs everything is being shut down."""
    inner = asyncio.create_task(database._enqueue(line("a")))
    await asyncio.sleep(0)
    inner.cancel()
    assert await database.write(line("b")) == "b"
    assert await database.write(line("c")) == "c"


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"):
        await database.read(line("a"))
    count = select(func.count()).select_from(ledger)
    assert await database.read(lambda connection: connection.scalar(count)) == 0
