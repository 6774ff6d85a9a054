"""SQLite: one connection that writes, one that reads; no caller cuts a transaction short."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Dialect,
    Engine,
    Executable,
    create_engine,
    event,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import StaticPool

from api.errors import ApiError, Unavailable
from api.store.database import Database, Work
from api.store.migrate import migrate_sqlite
from api.uncut import Uncut
from inference.errors import EngineError

T = TypeVar("T")

BUSY_SECONDS = 5
# A write that waited this long for those before it is refused rather than done.
LONGEST_QUEUE_SECONDS = 2 * BUSY_SECONDS
MAX_GROUP = 64


class Inline:
    """What a unit of work uses of an AsyncConnection, without any waiting behind it.

    For SQLite: a statement takes some 50 µs, and handing each to a thread and back was measured at
    1.2 ms of CPU for one poll, with the engine competing for the interpreter at each turn.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Executable) -> CursorResult[Any]:
        return self._connection.execute(statement)

    async def scalar(self, statement: Executable) -> Any:
        return self._connection.scalar(statement)


@dataclass(frozen=True, slots=True)
class Unit:
    """A write that waits for its turn, until `latest` on the monotonic clock."""

    work: Work[Any]
    done: asyncio.Future[Any]
    latest: float


# What became of a unit: its value, or what it raised.
Outcome = tuple[Any, Exception | None]


class SqliteDatabase(Database):
    """Runs units of work, each whole or not at all.

    A read runs on the event loop itself: in WAL mode it waits for nobody. Writes run on a thread of
    their own, where they may wait for the disk; those that come meanwhile share the next commit.
    Raises Unavailable while the database is locked or full.
    """

    is_shared = False

    def __init__(self, path: Path, writer: Engine, reader: Engine) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._waiting: deque[Unit] = deque()
        self._writing: asyncio.Task[None] | None = None
        # A client that hangs up cancels its handler; what it began to write is written.
        self._uncut = Uncut()
        self._closed = False

    async def migrate(self) -> None:
        """Create or upgrade the file."""
        await asyncio.to_thread(migrate_sqlite, self._path)

    async def write(self, work: Work[T], *, in_turn: bool = False) -> T:
        """The result of `work` once it is committed; all writes take turns.

        It may be run a second time, if it failed in the company of others.
        """
        self._check_open()
        return await self._uncut.run(self._enqueue(work))

    async def read(self, work: Work[T]) -> T:
        """The result of `work` on one consistent state."""
        self._check_open()
        return _transact(self._reader, work)

    async def close(self) -> None:
        """Let what runs end, then close every connection; later work raises Unavailable."""
        self._closed = True
        await self._uncut.settle()
        # where it was opened: connections are used on one thread only
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.dispose)
        self._thread.shutdown()
        self._reader.dispose()

    async def _enqueue(self, work: Work[T]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(Unit(work, done, time.monotonic() + LONGEST_QUEUE_SECONDS))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        """Commit what waits, group after group, until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]
                outcomes = await loop.run_in_executor(self._thread, self._commit, group)
                for unit, outcome in zip(group, outcomes, strict=True):
                    _tell(unit.done, outcome)
        finally:
            # Whatever ended this, the next write begins anew.
            self._writing = None

    def _commit(self, group: Sequence[Unit]) -> list[Outcome]:
        if len(group) > 1 and time.monotonic() <= group[0].latest:
            try:
                return _together(self._writer, group)
            except Exception:
                # Whose fault it was shows when each goes alone.
                pass
        return [_alone(self._writer, unit) for unit in group]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the service has stopped")


def _tell(done: asyncio.Future[Any], outcome: Outcome) -> None:
    value, error = outcome
    if done.done():
        # nobody waits any more: the loop is being shut down
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


def _together(engine: Engine, group: Sequence[Unit]) -> list[Outcome]:
    """Every unit in one transaction; one that is refused is taken back alone."""
    outcomes: list[Outcome] = []
    with engine.begin() as connection:
        for unit in group:
            before = connection.begin_nested()
            try:
                outcomes.append((_run(unit.work(_inline(connection))), None))
                before.commit()
            except (ApiError, EngineError) as refusal:
                before.rollback()
                outcomes.append((None, refusal))
    return outcomes


def _alone(engine: Engine, unit: Unit) -> Outcome:
    if time.monotonic() > unit.latest:
        return None, Unavailable("the database is busy", retry_after_seconds=BUSY_SECONDS)
    try:
        return _transact(engine, unit.work), None
    except Exception as error:
        return None, error


def _transact(engine: Engine, work: Work[T]) -> T:
    with _explaining(), engine.begin() as connection:
        return _run(work(_inline(connection)))


def _inline(connection: Connection) -> AsyncConnection:
    return cast(AsyncConnection, Inline(connection))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing but an `Inline` connection."""
    try:
        work.send(None)
    except StopIteration as ended:
        return cast(T, ended.value)
    work.close()
    raise RuntimeError("a unit of work waited for something else than its connection")


@contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise Unavailable(
            f"the database cannot be used now: {error.orig}", retry_after_seconds=BUSY_SECONDS
        ) from error


def sqlite_database(path: Path) -> SqliteDatabase:
    """The database in one file, which exists and has every table."""
    url = URL.create("sqlite", database=str(path))
    # One writing connection: eight of them under busy_timeout were measured to starve one another
    # for seconds, and one is enough for 300 durable transactions a second.
    # A statement that fails ends up in the log, and its parameters are prompts and secrets.
    writer, reader = (
        create_engine(url, poolclass=StaticPool, pool_reset_on_return=None, hide_parameters=True)
        for _ in range(2)
    )
    _prepare(writer, begin="BEGIN IMMEDIATE", query_only=False)
    _prepare(reader, begin="BEGIN", query_only=True)
    return SqliteDatabase(path, writer, reader)


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
