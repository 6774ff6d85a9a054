"""The tables, as SQLite and PostgreSQL both hold them; times are milliseconds since the epoch."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    literal_column,
)

from api.tasks import TaskState

metadata = MetaData()

# `attempt` counts claims and is the fence; `releases` counts those that were given back unharmed.
tasks = Table(
    "tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("dialect", String(32), nullable=False),
    Column("account", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("images", Integer, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("releases", Integer, nullable=False),
    Column("worker", String(64)),
    Column("lease_until_ms", BigInteger),
    Column("cancel_requested", Boolean, nullable=False),
    Column("error_kind", String(32)),
    Column("error_message", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("finished_ms", BigInteger),
    CheckConstraint(
        "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="known_state"
    ),
)

# Partial indexes are used only where the query holds the same literal, so these are not parameters.
QUEUED = tasks.c.state == literal_column(f"'{TaskState.QUEUED}'")
RUNNING = tasks.c.state == literal_column(f"'{TaskState.RUNNING}'")
UNFINISHED = tasks.c.state.in_(
    [literal_column(f"'{TaskState.QUEUED}'"), literal_column(f"'{TaskState.RUNNING}'")]
)

Index(
    "tasks_waiting",
    tasks.c.priority.desc(),
    tasks.c.created_ms,
    tasks.c.id,
    sqlite_where=QUEUED,
    postgresql_where=QUEUED,
)
Index("tasks_leased", tasks.c.lease_until_ms, sqlite_where=RUNNING, postgresql_where=RUNNING)
# Partial, or SQLite would prefer it for claiming, where it does not give the order.
Index(
    "tasks_counted",
    tasks.c.account,
    tasks.c.state,
    tasks.c.images,
    sqlite_where=UNFINISHED,
    postgresql_where=UNFINISHED,
)
Index("tasks_listed", tasks.c.account, tasks.c.created_ms, tasks.c.id)

outputs = Table(
    "outputs",
    metadata,
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("index", Integer, nullable=False),
    Column("key", String(128), nullable=False, unique=True),
    Column("media_type", String(32), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    PrimaryKeyConstraint("task_id", "index"),
)
