"""Where a test's database is: in a file, or in a PostgreSQL of the tests' own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from api.store import Database, migrate_sqlite, sqlite_database
from api.store.postgres import postgres_database
from tests.api.postgres import Cluster, rows


class Place(Protocol):
    """A database that has every table."""

    def open(self) -> Database:
        """As one more process sees it."""
        ...

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What a statement of our own finds or changes; `?` stands for a value."""
        ...


class InFile:
    """SQLite."""

    def __init__(self, path: Path) -> None:
        migrate_sqlite(path)
        self.path = path

    def open(self) -> Database:
        return sqlite_database(self.path)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()


class OnServer:
    """PostgreSQL."""

    def __init__(self, cluster: Cluster) -> None:
        self.url = cluster.emptied()

    def open(self) -> Database:
        return postgres_database(self.url)

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        for number in range(1, len(values) + 1):
            statement = statement.replace("?", f"${number}", 1)
        return rows(self.url, statement, *values)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database of each kind; without PostgreSQL on the machine the second is skipped."""
    if request.param == "sqlite":
        return InFile(tmp_path / "darkroom.db")
    return OnServer(request.getfixturevalue("cluster"))
