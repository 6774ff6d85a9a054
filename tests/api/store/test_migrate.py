"""Migrations: the tables are those of the schema, once, and a newer database is left alone."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from api.errors import Unavailable
from api.store import MigrationError, migrate_sqlite
from api.store.migrate import SCRIPTS
from api.store.rows import dump_request
from api.store.schema import metadata
from api.tasks import AS_CONFIGURED, TaskState
from inference.job import dump_job
from tests.api.making import open_store, submission


def test_the_revisions_lead_to_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    migrate_sqlite(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        found = {
            row[0]
            for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE sql <> ''")
        }
    engine.dispose()
    wanted = {index.name for table in metadata.tables.values() for index in table.indexes}
    assert wanted | set(metadata.tables) <= found


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "twice.db"
    migrate_sqlite(path)
    before = path.read_bytes()
    migrate_sqlite(path)
    assert path.read_bytes() == before


def test_many_starts_at_once_migrate_once(tmp_path: Path) -> None:
    path, errors = tmp_path / "race.db", []

    def start() -> None:
        try:
            migrate_sqlite(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    migrate_sqlite(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(MigrationError, match="revision 9999"):
        migrate_sqlite(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database" * 100)
    with pytest.raises(MigrationError, match="not a database"):
        migrate_sqlite(path)


@pytest.mark.timeout(60)
def test_a_file_that_is_locked_is_not_refused_for_good(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    migrate_sqlite(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="database is locked"):
            migrate_sqlite(path)


async def test_tasks_of_the_first_version_are_kept_and_run(tmp_path: Path) -> None:
    """They hold no credits, so nothing is charged for them and nothing given back."""
    path = tmp_path / "first.db"
    first_version(path)
    with sqlite3.connect(path) as connection:
        for task_id, state in (("waiting", "queued"), ("done", "succeeded")):
            given = submission(task_id)
            row = (task_id, "darkroom", "", state, 0, dump_request(given.request))
            row += (dump_job(given.job), 1, 3, 0, 0, 0, 1000)
            connection.execute(
                "INSERT INTO tasks (id, dialect, account, state, priority, request, job, images,"
                " credits, attempt, releases, cancel_requested, created_ms)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
    connection.close()
    store = open_store(path)
    try:
        done = await store.get("done")
        assert done is not None and done.delivery == AS_CONFIGURED
        claim = await store.claim("me", lease_ms=1000)
        assert claim is not None and claim.task.id == "waiting"
        assert await store.finish(claim.holding, TaskState.FAILED, error_kind="x") is not None
    finally:
        await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
        assert connection.execute("SELECT held FROM accounts WHERE name = ''").fetchone() == (0,)
    connection.close()


def first_version(path: Path) -> None:
    """A database as the first release left it."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
