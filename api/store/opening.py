"""Which database a server runs on."""

from __future__ import annotations

from pathlib import Path

from api.store.database import Database
from api.store.sqlite import sqlite_database


class DriverMissing(Exception):
    """A database is named whose driver is not installed; the message says what to install."""


def open_database(path: Path, url: str | None) -> Database:
    """PostgreSQL at `url`, or SQLite in the file; nothing is opened yet. Raises DriverMissing."""
    if url is None:
        return sqlite_database(path)
    try:
        from api.store.postgres import postgres_database
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise DriverMissing(
            "PostgreSQL needs the driver asyncpg: pip install 'darkroom[postgres]'"
        ) from None
    return postgres_database(url)
