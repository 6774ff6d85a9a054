"""What only PostgreSQL does: locks, lost answers, its clock, its types, its migrations."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.accounts import Account
from api.build import build
from api.errors import BadRequest, NoCredits, Unavailable, Unsure
from api.settings import Settings, SettingsError, load_settings
from api.store import MigrationError, Store, open_database, postgres
from api.store.accounts import AccountStore
from api.store.postgres import PostgresDatabase
from api.store.schema import accounts, metadata, tasks
from api.store.uploads import KeptUpload, UploadStore
from api.tasks import TaskState
from tests.api.making import AMPLE, inserted, open_store, output_of, submission
from tests.api.places import OnServer
from tests.api.postgres import Cluster, rows

LEASE_MS = 60_000
SOON_SECONDS = 30


@pytest.fixture
def place(cluster: Cluster) -> OnServer:
    return OnServer(cluster)


@pytest.fixture
async def database(place: OnServer) -> AsyncIterator[PostgresDatabase]:
    opened = PostgresDatabase(place.url)
    yield opened
    await opened.close()


@pytest.fixture
async def store(place: OnServer) -> AsyncIterator[Store]:
    opened = open_store(place)
    yield opened
    await opened.close()


@pytest.fixture
async def other(place: OnServer) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection."""
    connection = await asyncpg.connect(place.url)
    yield connection
    await connection.close()


def account(name: str):  # type: ignore[no-untyped-def]
    """A unit that makes an account."""

    async def work(connection: AsyncConnection) -> str:
        values = {"metered": False, "balance": 0, "held": 0, "webhook_secret": "", "created_ms": 0}
        await connection.execute(insert(accounts).values(name=name, **values))
        return name

    return work


def names(place: OnServer) -> set[str]:
    return {name for (name,) in place.rows("SELECT name FROM accounts")}


# --- who meets whom


async def test_a_task_that_another_is_claiming_is_passed_over(
    store: Store, other: asyncpg.Connection
) -> None:
    for name in ("first", "second"):
        await inserted(store, submission(name))
    async with other.transaction():
        await other.execute("SELECT 1 FROM tasks WHERE id = 'first' FOR UPDATE")
        async with asyncio.timeout(SOON_SECONDS):
            claimed = await store.claim("a", lease_ms=LEASE_MS)
            assert claimed is not None and claimed.task.id == "second"
            assert await store.claim("a", lease_ms=LEASE_MS) is None
    claimed = await store.claim("a", lease_ms=LEASE_MS)
    assert claimed is not None and claimed.task.id == "first"


async def test_a_picture_that_meets_the_next_claim_is_refused(
    store: Store, other: asyncpg.Connection
) -> None:
    """The other claim is not committed yet when the late picture comes."""
    await inserted(store, submission("one"))
    late = await store.claim("late", lease_ms=LEASE_MS)
    assert late is not None
    async with other.transaction():
        await other.execute("UPDATE tasks SET attempt = 2, worker = 'heir' WHERE id = 'one'")
        adding = asyncio.create_task(store.add_output(late.holding, output_of("one", 0)))
        await asyncio.sleep(0.3)
        assert not adding.done(), "it has to wait for what becomes of the task"
    assert not await adding
    task = await store.get("one")
    assert task is not None and task.outputs == ()


async def test_two_claims_charge_once(place: OnServer, store: Store) -> None:
    for number in range(20):
        await inserted(store, submission(f"t{number}"))
    stores = [open_store(place) for _ in range(4)]
    claims = await asyncio.gather(
        *(one.claim(f"w{n}", lease_ms=LEASE_MS) for n in range(8) for one in stores)
    )
    taken = [claim.task.id for claim in claims if claim]
    assert len(taken) == len(set(taken)) == 20
    assert place.rows("SELECT count(*) FROM ledger WHERE kind = 'charge'") == [(20,)]
    for one in stores:
        await one.close()


async def test_who_comes_second_with_a_key_is_run_again(database: PostgresDatabase) -> None:
    """And finds what the first has made."""

    async def make(connection: AsyncConnection) -> bool:
        known = select(accounts.c.name).where(accounts.c.name == "new")
        if await connection.scalar(known) is not None:
            return False
        await asyncio.sleep(0.1)
        await account("new")(connection)
        return True

    made = await asyncio.gather(*(database.write(make) for _ in range(4)))
    assert sorted(made) == [False, False, False, True]


async def test_a_deadlock_is_nobodys_loss(database: PostgresDatabase, place: OnServer) -> None:
    for name in "ab":
        await database.write(account(name))

    def add(first: str, second: str):  # type: ignore[no-untyped-def]
        async def work(connection: AsyncConnection) -> None:
            for name in (first, second):
                more = text(f"UPDATE accounts SET balance = balance + 1 WHERE name = '{name}'")
                await connection.execute(more)
                await asyncio.sleep(0.2)

        return work

    await asyncio.gather(database.write(add("a", "b")), database.write(add("b", "a")))
    assert place.rows("SELECT balance FROM accounts WHERE name IN ('a', 'b')") == [(2,), (2,)]


async def test_who_holds_on_is_not_waited_for_for_ever(
    store: Store, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._BRIEF, "lock_timeout", "300ms")
    async with other.transaction():
        await other.execute(f"SELECT pg_advisory_xact_lock({postgres.ACCEPTING})")
        with pytest.raises(Unavailable, match=r"cannot be used now$") as refused:
            await inserted(store, submission("one"))
        assert "LockNotAvailable" in kind_of(refused.value)
        assert refused.value.retry_after_seconds
    await inserted(store, submission("one"))


def kind_of(refused: Unavailable) -> str:
    """What the database said, of which callers hear nothing."""
    said: Any = refused.__cause__
    return type(said.orig.__cause__).__name__


async def test_a_rush_leaves_room_for_the_rest(store: Store) -> None:
    """Submissions take turns; they must not take every connection while they wait."""
    await inserted(store, submission("before"))
    rush = [asyncio.create_task(inserted(store, submission(f"t{n}"), AMPLE)) for n in range(150)]
    before_each: list[int] = []
    while not all(one.done() for one in rush):
        done = sum(one.done() for one in rush)
        assert await store.get("before") is not None
        before_each.append(sum(one.done() for one in rush) - done)
    await asyncio.gather(*rush)
    # who finds every connection taken comes behind nearly all of them
    assert max(before_each) < 75


async def test_what_is_counted_of_an_account_stays_so(
    store: Store, database: PostgresDatabase, place: OnServer
) -> None:
    """Uploads that fit once, and credits that are taken back once, at eight doors at once."""
    uploads, books = UploadStore(database), AccountStore(database)
    made = await asyncio.gather(
        *(uploads.insert("me", [upload(f"u{n}")], max_bytes=15) for n in range(8))
    )
    assert sorted(made) == [False] * 7 + [True]
    await books.grant("me", 10, "")
    taken = await asyncio.gather(
        *(books.grant("me", -6, "") for _ in range(8)), return_exceptions=True
    )
    assert Counter(type(one) for one in taken) == {Account: 1, NoCredits: 7}
    assert place.rows("SELECT balance FROM accounts WHERE name = 'me'") == [(4,)]


def upload(name: str) -> KeptUpload:
    """One of ten bytes."""
    return KeptUpload(
        id=name, account="me", key=f"uploads/{name}/0.png", media_type="image/png",
        size_bytes=10, width=1, height=1, created_ms=0, expires_ms=2**50,
    )  # fmt: skip


async def test_a_slow_statement_does_not_stop_the_loop(database: PostgresDatabase) -> None:
    ticks = 0
    reading = asyncio.create_task(
        database.read(lambda connection: connection.scalar(text("SELECT pg_sleep(0.5)")))
    )
    while not reading.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 2


async def test_a_reader_cannot_write(database: PostgresDatabase, place: OnServer) -> None:
    with pytest.raises(Unavailable) as refused:
        await database.read(account("sly"))
    assert "ReadOnly" in kind_of(refused.value)
    assert "sly" not in names(place)


async def test_a_read_is_of_one_state(database: PostgresDatabase) -> None:
    async def look(connection: AsyncConnection) -> tuple[int, int]:
        count = text("SELECT count(*) FROM accounts")
        before = await connection.scalar(count)
        await database.write(account("new"))
        return before, await connection.scalar(count)

    before, after = await database.read(look)
    assert before == after


# --- answers that are lost


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_commit_whose_answer_is_lost_is_asked_about(
    database: PostgresDatabase, place: OnServer, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    lose_an_answer(monkeypatch, is_kept)
    if is_kept:
        assert await database.write(account("new")) == "new"
    else:
        with pytest.raises(Unavailable) as refused:
            await database.write(account("new"))
        assert not isinstance(refused.value, Unsure)
    assert ("new" in names(place)) == is_kept


async def test_where_nobody_can_say_it_is_said(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(account("connected"))
    lose_an_answer(monkeypatch, True)
    monkeypatch.setattr(postgres, "BUSY_SECONDS", 0)
    with pytest.raises(Unsure):
        await database.write(account("new"))


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, is_kept: bool) -> None:
    """The next commit is made or not, and then the line is cut."""
    commit = AsyncConnection.commit

    async def cut(self: AsyncConnection) -> None:
        monkeypatch.setattr(AsyncConnection, "commit", commit)
        await (commit(self) if is_kept else self.rollback())
        raise ConnectionResetError

    monkeypatch.setattr(AsyncConnection, "commit", cut)


async def test_connections_that_are_cut_are_replaced_unseen(
    database: PostgresDatabase, other: asyncpg.Connection, place: OnServer
) -> None:
    await asyncio.gather(*(database.write(account(f"a{n}")) for n in range(6)))
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'darkroom' AND datname = current_database()"
    )
    await database.write(account("after"))
    assert "after" in names(place)
    assert await database.read(lambda c: c.scalar(select(accounts.c.name).limit(1))) is not None


async def test_a_connection_that_is_just_being_cut_is_replaced_unseen(
    database: PostgresDatabase, place: OnServer
) -> None:
    """It refuses in the driver's own way: what it was told has come, that it is closed not yet."""
    used: list[AsyncConnection] = []

    async def work(connection: AsyncConnection) -> None:
        used.append(connection)
        if len(used) == 1:
            raise asyncpg.InternalClientError("another operation is in progress")
        await account("after")(connection)

    await database.write(work)
    assert len(used) == 2 and "after" in names(place)


async def test_who_leads_connects_anew_when_it_is_being_cut(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await database.leads()
    first = database._leading

    async def refuses(self: asyncpg.Connection, *args: object) -> None:
        monkeypatch.undo()
        raise asyncpg.InternalClientError("another operation is in progress")

    monkeypatch.setattr(asyncpg.Connection, "fetchval", refuses)
    async with asyncio.timeout(30):
        while not await database.leads():
            await asyncio.sleep(0.02)
    assert first is not None and first.is_closed() and database._leading is not first


async def test_what_is_said_while_the_line_is_cut_is_not_heard_and_then_it_is(
    database: PostgresDatabase, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PAUSE_SECONDS", 0.05)
    heard: list[tuple[str, str]] = []
    await database.listen(lambda task_id, word: heard.append((task_id, word)))
    await until_heard(other, heard, "one running")
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT 1%'"
        " AND application_name = 'darkroom' AND datname = current_database()"
    )
    await until_heard(other, heard, "two succeeded")
    assert set(heard) == {("one", "running"), ("two", "succeeded")}


async def until_heard(
    other: asyncpg.Connection, heard: list[tuple[str, str]], payload: str
) -> None:
    async with asyncio.timeout(30):
        while tuple(payload.split()) not in heard:
            await other.execute(f"NOTIFY darkroom_tasks, '{payload}'")
            await asyncio.sleep(0.02)


# --- its clock, its types


async def test_the_time_is_the_databases(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are compared by several machines, whose own clocks may be an hour apart."""
    monkeypatch.setattr(postgres, "wall_clock_ms", lambda: 0)
    assert database.now_ms() == 0
    await database.write(account("new"))
    first = database.now_ms()
    assert abs(first / 1000 - time.time()) < 60
    await asyncio.sleep(0.05)
    assert 40 < database.now_ms() - first < 60_000


@pytest.mark.parametrize("task_id", ["\0", "a\0b", "\ud800"])
async def test_what_is_no_text_is_a_bad_request(store: Store, task_id: str) -> None:
    with pytest.raises(BadRequest):
        await store.get(task_id)


async def test_what_is_too_long_is_a_bad_request_and_kept_nowhere(
    database: PostgresDatabase, place: OnServer
) -> None:
    with pytest.raises(BadRequest):
        await database.write(account("x" * 65))
    assert names(place) == {""}


async def test_sums_are_whole_numbers(store: Store, place: OnServer) -> None:
    """PostgreSQL makes decimals of them, which JSON would write with a point or as text."""
    found = await AccountStore(store._database).open_account("me")
    assert type(found.balance) is int
    assert type((await store.counts()).images) is int


# --- its tables


async def test_the_revisions_lead_to_the_schema(cluster: Cluster) -> None:
    url = cluster.create(migrated=False)
    fresh = PostgresDatabase(url)
    await fresh.migrate()

    def differences(connection: object) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})  # type: ignore[arg-type]
        return compare_metadata(context, metadata)

    async with fresh._engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await fresh.close()
    found = {name for (name,) in rows(url, "SELECT indexname FROM pg_indexes")}
    assert {index.name for table in metadata.tables.values() for index in table.indexes} <= found


async def test_servers_that_start_at_once_migrate_once(cluster: Cluster) -> None:
    url = cluster.create(migrated=False)
    servers = [PostgresDatabase(url) for _ in range(4)]
    await asyncio.gather(*(server.migrate() for server in servers))
    assert rows(url, "SELECT name FROM accounts") == [("",)]
    for server in servers:
        await server.close()


async def test_a_newer_database_is_refused(cluster: Cluster) -> None:
    url = cluster.create()
    rows(url, "UPDATE alembic_version SET version_num = '9999'")
    newer = PostgresDatabase(url)
    with pytest.raises(MigrationError, match="revision 9999"):
        await newer.migrate()
    await newer.close()


async def test_a_claim_uses_the_index(store: Store, place: OnServer) -> None:
    await inserted(store, submission("first"))
    columns = [column.name for column in tasks.c]
    copied = ", ".join("n::text" if name == "id" else f"t.{name}" for name in columns)
    place.rows(
        f"INSERT INTO tasks ({', '.join(columns)})"
        f" SELECT {copied} FROM tasks t, generate_series(1, 10000) n"
    )
    place.rows("ANALYZE tasks")
    started = time.perf_counter()
    for _ in range(20):
        claimed = await store.claim("a", lease_ms=LEASE_MS)
        assert claimed is not None
        assert await store.finish(claimed.holding, TaskState.FAILED)
    # 11 ms a round on two quiet cores
    assert (time.perf_counter() - started) / 20 < 0.3


# --- how it is named


@pytest.mark.parametrize("url", ["mysql://u:canary@h/d", "canary", "sqlite:///canary.db"])
def test_another_address_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", url)
    with pytest.raises(SettingsError, match="DARKROOM_DATABASE_URL: must start with") as refused:
        load_settings()
    assert "canary" not in str(refused.value)


def test_the_address_is_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql://u:canary@h/d")
    settings = load_settings()
    assert settings.postgres_url == "postgresql://u:canary@h/d"
    assert "canary" not in repr(settings)


def test_without_its_driver_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "api.store.postgres")
    settings = Settings(
        database_url="postgresql://h/d", data_dir=tmp_path, models=root / "models.yaml"
    )
    with pytest.raises(SettingsError, match=r"pip install 'darkroom\[postgres\]'"):
        build(settings)
    assert not open_database(tmp_path / "darkroom.db", None).is_shared
