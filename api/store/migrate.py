"""Brings a database to the tables this version knows, before anyone uses it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from api.errors import Unavailable

SCRIPTS = Path(__file__).with_name("migrations")


class MigrationError(Exception):
    """The database cannot be used by this version; the message says why."""


def migrate_sqlite(path: Path) -> None:
    """Create or upgrade the database in a file.

    Raises MigrationError for one that is too new or none, Unavailable for one that is locked.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Alone in the file: another process waits here, then finds nothing left to do.
        connection.exec_driver_sql("BEGIN EXCLUSIVE")

    try:
        with engine.begin() as connection:
            upgrade(connection, where=str(path))
    except DBAPIError as error:
        # the lowest byte says what is wrong, the others more exactly
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise Unavailable(f"{path}: {error.orig}") from None
        raise MigrationError(f"{path}: {error.orig}") from None


def upgrade(connection: Connection, *, where: str) -> None:
    """Run the missing revisions inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise MigrationError(
            f"{where}: written by a newer Darkroom (revision {current}; this one knows up to "
            f"{scripts.get_current_head()}); upgrade Darkroom or use another database"
        )
    command.upgrade(config, "head")
