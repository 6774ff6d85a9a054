"""Connections: one that writes, one that reads; no caller cuts a transaction short."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from api.errors import Unavailable
from api.uncut import Uncut

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

BUSY_SECONDS = 5


class InlineReader:
    """Reads on the event loop itself, through one connection of its own.

    For SQLite only: a read by key takes some 50 µs, and in WAL mode it waits for nobody. Handing
    every statement to a thread and back was measured at 1.2 ms of CPU for one poll, with the engine
    competing for the interpreter at each turn.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, work: Work[T]) -> T:
        """The result of `work` on one consistent state; it is not interrupted."""
        with _explaining(), self._engine.begin() as connection:
            return await work(cast(AsyncConnection, _Inline(connection)))

    def close(self) -> None:
        """Disconnect."""
        self._engine.dispose()


class _Inline:
    """What a unit of work uses of an AsyncConnection, without any waiting behind it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable) -> CursorResult[Any]:
        return self._connection.execute(statement)

    async def scalar(self, statement: Executable) -> Any:
        return self._connection.scalar(statement)


class Database:
    """Runs units of work, each in one transaction.

    Raises Unavailable while the database is locked, full or out of reach.
    """

    def __init__(self, writer: AsyncEngine, reader: InlineReader) -> None:
        self._writer = writer
        self._reader = reader
        # A client that hangs up cancels its handler; a transaction cut between two statements
        # would leave the only writing connection in an unknown state.
        self._uncut = Uncut()
        self._closed = False

    async def write(self, work: Work[T]) -> T:
        """The result of `work` once it is committed; rolled back if it raises."""
        self._check_open()
        return await self._uncut.run(_transact(self._writer, work))

    async def read(self, work: Work[T]) -> T:
        """The result of `work` on one consistent state."""
        self._check_open()
        return await self._reader.run(work)

    async def close(self) -> None:
        """Let what runs end, then close every connection; later work raises Unavailable."""
        self._closed = True
        await self._uncut.settle()
        await self._writer.dispose()
        self._reader.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the service has stopped")


@contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise Unavailable(
            f"the database cannot be used now: {cause}", retry_after_seconds=BUSY_SECONDS
        ) from error


async def _transact(engine: AsyncEngine, work: Work[T]) -> T:
    with _explaining():
        async with engine.begin() as connection:
            return await work(connection)


def wall_clock_ms() -> int:
    """Milliseconds since the epoch; leases outlive a process, so no monotonic clock will do."""
    return time.time_ns() // 1_000_000


def sqlite_database(path: Path) -> Database:
    """The database in one file, which exists and has every table."""
    url = URL.create("sqlite+aiosqlite", database=str(path))
    plain = URL.create("sqlite", database=str(path))
    # One writing connection: eight of them under busy_timeout were measured to starve one another
    # for seconds, and one is enough for 300 durable transactions a second.
    writer = create_async_engine(
        url, pool_size=1, max_overflow=0, pool_timeout=2 * BUSY_SECONDS, pool_reset_on_return=None
    )
    reader = create_engine(plain, poolclass=StaticPool)
    _prepare(writer.sync_engine, begin="BEGIN IMMEDIATE", query_only=False)
    _prepare(reader, begin="BEGIN", query_only=True)
    return Database(writer, InlineReader(reader))


def _prepare(engine: Engine, *, begin: str, query_only: bool) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        # The driver would otherwise open transactions of its own, at moments of its own.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: with NORMAL the last commits before a power cut may be lost, and they were promised.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA query_only = {'ON' if query_only else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def start(connection: Any) -> None:
        connection.exec_driver_sql(begin)
