"""The durable record of tasks, in SQL."""

from api.store.database import Database
from api.store.migrate import MigrationError, migrate_sqlite
from api.store.opening import DriverMissing, open_database
from api.store.records import Accepted, Bounds, Claim, Counts, Holding, Submission
from api.store.rows import to_cursor
from api.store.sqlite import sqlite_database
from api.store.store import Store

__all__ = [
    "Accepted",
    "Bounds",
    "Claim",
    "Counts",
    "Database",
    "DriverMissing",
    "Holding",
    "MigrationError",
    "Store",
    "Submission",
    "migrate_sqlite",
    "open_database",
    "sqlite_database",
    "to_cursor",
]
