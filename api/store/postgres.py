"""PostgreSQL: many connections, many servers; transactions meet at locks and are run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import asyncpg
import structlog
from asyncpg import Connection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from api.clock import wall_clock_ms
from api.errors import Unavailable, Unsure
from api.store.company import ACCEPTING, CHANNEL, LEADING, MIGRATING
from api.store.database import Database, Hear, Work
from api.store.migrate import upgrade
from api.store.sqlstates import AGAIN, AWAY, CUT, RETRY_SECONDS, explaining, sqlstate_of, unusable
from api.uncut import Uncut

T = TypeVar("T")

log = structlog.get_logger()

CONNECTIONS = 8
BUSY_SECONDS = 5
STATEMENT_SECONDS = 10
LONGEST_QUEUE_SECONDS = 2 * BUSY_SECONDS
# A deadlock, or two who write the same key: the other one is through by the second try.
TRIES = 3
PAUSE_SECONDS = 1.0
# A line that is dead without saying so is noticed by asking.
ASK_SECONDS = 30.0
# What took longer says too little about the time.
LONGEST_SAMPLE_SECONDS = 1.0

# Whoever is gone without a word shall hold no lock for long.
_COMPANIONABLE = {
    "application_name": "darkroom",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_BRIEF = _COMPANIONABLE | {
    "default_transaction_isolation": "read committed",
    "lock_timeout": f"{BUSY_SECONDS}s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS}s",
    # Compiling a statement takes longer than any of ours.
    "jit": "off",
}

_MARK = text(
    "SELECT CAST(pg_current_xact_id_if_assigned() AS text),"
    " CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
)
_TAKE_TURN = text(f"SELECT pg_advisory_xact_lock({ACCEPTING})")
_BECAME = "SELECT pg_xact_status(CAST(CAST($1 AS text) AS xid8))"


class PostgresDatabase(Database):
    """Transactions at READ COMMITTED; what has to be alone takes a lock.

    Everything waits at most some seconds, then raises Unavailable.
    """

    is_shared = True

    def __init__(self, url: str) -> None:
        self._url = url
        # A statement that fails ends up in the log, and its parameters are prompts and secrets.
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: self._connect(_BRIEF, STATEMENT_SECONDS),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            hide_parameters=True,
        )
        self._reader = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._ahead_ms: float | None = None
        self._leading: Connection | None = None
        self._listening: asyncio.Task[None] | None = None
        self._turn, self._asking = asyncio.Lock(), asyncio.Lock()
        self._uncut = Uncut()
        self._closed = False
        # Set when the line for listening is cut, and when all is to end.
        self._changed = asyncio.Event()

    async def migrate(self) -> None:
        """Create or upgrade the tables; of several servers that start one does, the others wait."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: self._connect(_COMPANIONABLE),
            poolclass=NullPool,
        )
        try:
            async with engine.begin() as connection:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATING})"))
                await connection.run_sync(lambda inner: upgrade(inner, where="the database"))
        except (*AWAY, ValueError) as error:
            raise unusable(error) from None
        finally:
            await engine.dispose()

    async def write(self, work: Work[T], *, in_turn: bool = False) -> T:
        """The result of `work` once it is committed; raises Unsure where nobody can tell."""
        commit = self._commit_in_turn if in_turn else self._commit
        return await self._run(lambda: commit(work))

    async def read(self, work: Work[T]) -> T:
        """The result of `work` on one snapshot."""
        return await self._run(lambda: self._look(work))

    async def close(self) -> None:
        """Let what runs end, then disconnect."""
        self._closed = True
        self._changed.set()
        await self._uncut.settle()
        if self._listening is not None:
            # Not cancelled: a connection that is just being made would be left open.
            await self._listening
        if self._leading is not None:
            await _end(self._leading)
        await self._engine.dispose()

    def now_ms(self) -> int:
        """The database's clock, as of the last write."""
        if self._ahead_ms is None:
            return wall_clock_ms()
        return int(time.monotonic() * 1000 + self._ahead_ms)

    async def leads(self) -> bool:
        """Whether this server has the lock of the one; it keeps it as long as it is connected."""
        return await self._run(self._lead)

    async def listen(self, hear: Hear) -> None:
        """Tell what is announced, our own words too, but for what is said while the line is cut."""
        self._listening = asyncio.create_task(self._listen_forever(hear), name="listening")

    async def _lead(self) -> bool:
        async with self._asking:
            if self._leading is None or self._leading.is_closed():
                self._leading = await self._connect(_COMPANIONABLE, STATEMENT_SECONDS)
            try:
                got = await self._leading.fetchval("SELECT pg_try_advisory_lock($1)", LEADING)
            except AWAY:
                self._leading.terminate()
                self._leading = None
                raise
        return bool(got)

    async def _run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise Unavailable("the service has stopped")
        return await self._uncut.run(self._persist(attempt))

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        with explaining():
            for _ in range(TRIES - 1):
                try:
                    return await attempt()
                except CUT:
                    continue
                except DBAPIError as error:
                    # The connections that a restart of the database cut are all replaced at once.
                    if not (error.connection_invalidated or sqlstate_of(error) in AGAIN):
                        raise
            return await attempt()

    async def _commit(self, work: Work[T]) -> T:
        async with self._engine.connect() as connection:
            with _dropping(connection):
                value = await work(connection)
                transaction_id = await self._mark(connection)
            try:
                await connection.commit()
            except AWAY:
                # Committed or not: the answer was lost, and only the database knows.
                await connection.invalidate()
                if transaction_id is not None and not await self._was_kept(transaction_id):
                    raise
        return value

    async def _commit_in_turn(self, work: Work[T]) -> T:
        async def alone(connection: AsyncConnection) -> T:
            await connection.execute(_TAKE_TURN)
            return await work(connection)

        # First here, so that those who wait leave connections to the rest of the service.
        async with asyncio.timeout(LONGEST_QUEUE_SECONDS):
            await self._turn.acquire()
        try:
            return await self._commit(alone)
        finally:
            self._turn.release()

    async def _look(self, work: Work[T]) -> T:
        async with self._reader.connect() as connection:
            with _dropping(connection):
                return await work(connection)

    async def _mark(self, connection: AsyncConnection) -> str | None:
        """The id of the transaction, if it has written anything; and what time it is there."""
        before = time.monotonic()
        transaction_id, there_ms = (await connection.execute(_MARK)).one()
        after = time.monotonic()
        if after - before < LONGEST_SAMPLE_SECONDS or self._ahead_ms is None:
            self._ahead_ms = there_ms - (before + after) / 2 * 1000
        return transaction_id if transaction_id is None else str(transaction_id)

    async def _was_kept(self, transaction_id: str) -> bool:
        """Whether a transaction was committed; raises Unsure if that cannot be found out."""
        deadline = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < deadline:
            with suppress(*AWAY):
                # Not of the pool, which may be full of those who ask the same.
                connection = await self._connect(_BRIEF, STATEMENT_SECONDS)
                try:
                    became = await connection.fetchval(_BECAME, transaction_id)
                finally:
                    await _end(connection)
                if became in ("committed", "aborted"):
                    return bool(became == "committed")
            await asyncio.sleep(PAUSE_SECONDS / 5)
        raise Unsure(
            "the database went away, and nobody can say whether this was kept",
            retry_after_seconds=RETRY_SECONDS,
        )

    async def _connect(
        self, settings: dict[str, str], command_seconds: float | None = None
    ) -> Connection:
        return await asyncpg.connect(
            self._url,
            timeout=BUSY_SECONDS,
            command_timeout=command_seconds,
            server_settings=settings,
        )

    async def _listen_forever(self, hear: Hear) -> None:
        while not self._closed:
            self._changed.clear()
            try:
                await self._listen_once(hear)
            except AWAY as error:
                log.warning("listening_waits", reason=type(error).__name__)
            except Exception:
                log.exception("listening_broke")
            await self._pause(PAUSE_SECONDS)

    async def _listen_once(self, hear: Hear) -> None:
        def heard(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            task_id, _, word = str(payload).partition(" ")
            hear(task_id, word)

        connection = await self._connect(_COMPANIONABLE, STATEMENT_SECONDS)
        try:
            connection.add_termination_listener(lambda _: self._changed.set())
            await connection.add_listener(CHANNEL, heard)
            while not (self._closed or connection.is_closed()):
                await connection.execute("SELECT 1")
                await self._pause(ASK_SECONDS)
        finally:
            await _end(connection)

    async def _pause(self, seconds: float) -> None:
        if not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()


async def _end(connection: Connection) -> None:
    try:
        await connection.close(timeout=BUSY_SECONDS)
    except AWAY:
        connection.terminate()


@contextmanager
def _dropping(connection: AsyncConnection) -> Iterator[None]:
    """Forget a connection that has not answered in time, or is being cut."""
    try:
        yield
    except (TimeoutError, CUT):
        connection.sync_connection.invalidate()  # type: ignore[union-attr]
        raise


def postgres_database(url: str) -> PostgresDatabase:
    """The database at a libpq URL, which is connected to when it is first used."""
    return PostgresDatabase(url)
