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
    UniqueConstraint,
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
    Column("key_id", String(16)),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("delivery", Text, nullable=False, server_default="{}"),
    Column("extras", Text, nullable=False, server_default="{}"),
    Column("findings", Text, nullable=False, server_default="{}"),
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
    Column("files_deleted_ms", BigInteger),
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
KEPT = tasks.c.files_deleted_ms.is_(None)
Index("tasks_kept", tasks.c.finished_ms, sqlite_where=KEPT, postgresql_where=KEPT)
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
    Column("destination_url", Text),
    Column("rating", Text),
    PrimaryKeyConstraint("task_id", "index"),
)

# Pictures that will not be made, of tasks whose others are.
failures = Table(
    "failures",
    metadata,
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("index", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("task_id", "index"),
)

# `balance` is what can still be spent, `held` what unfinished tasks have set aside: always the sums
# of the ledger's two columns. An account that is not metered may go below zero.
accounts = Table(
    "accounts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("metered", Boolean, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("webhook_secret", String(80), nullable=False),
    Column("old_webhook_secret", String(80)),
    Column("secret_changed_ms", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("(NOT metered) OR balance >= 0", name="no_overdraft"),
    CheckConstraint("held >= 0", name="no_negative_hold"),
)

# Only a key's SHA-256 is kept: of 256 random bits nothing can be guessed back.
keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.name"), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("label", String(64), nullable=False),
    Column("scopes", String(64), nullable=False),
    Column("dialect", String(32)),
    Column("rate_per_minute", Integer),
    Column("max_unfinished", Integer),
    Column("spend_limit", BigInteger),
    Column("spend_period", String(8)),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
)
Index("keys_of_account", keys.c.account)

# `amount` changes the balance, `held` what is set aside: a grant is (+n, 0), a hold (-n, +n),
# a charge (0, -n), a release of what was held (+n, -n), a refund of what was charged (+n, 0).
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account", String(64), nullable=False),
    Column("key_id", String(16)),
    Column("task_id", String(32)),
    Column("kind", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("note", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    UniqueConstraint("task_id", "kind", name="once_per_task"),
)
Index("ledger_of_account", ledger.c.account, ledger.c.id)
Index("ledger_of_key", ledger.c.key_id, ledger.c.created_ms)

# `reply` is what the first request was answered; null while that is not known yet.
idempotency = Table(
    "idempotency",
    metadata,
    Column("account", String(64), nullable=False),
    Column("route", String(100), nullable=False),
    Column("key", String(255), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("task_id", String(32), nullable=False),
    Column("reply", Text),
    Column("created_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("account", "route", "key"),
)
Index("idempotency_age", idempotency.c.created_ms)

# One message to one receiver; `next_ms` is when it is due, and null once it needs no more trying.
outbox = Table(
    "outbox",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("task_id", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("account", String(64), nullable=False),
    Column("dialect", String(32), nullable=False),
    Column("url", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_ms", BigInteger),
    Column("last_status", Integer),
    Column("last_error", String(200)),
    Column("hook_id", String(32)),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="known_outbox_state"),
)
Index("outbox_due", outbox.c.next_ms)
SETTLED = outbox.c.next_ms.is_(None)
Index("outbox_settled", outbox.c.created_ms, sqlite_where=SETTLED, postgresql_where=SETTLED)
Index("outbox_of_task", outbox.c.task_id)

# Places of an account's own that get copies of its pictures.
destinations = Table(
    "destinations",
    metadata,
    Column("account", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("endpoint", Text),
    Column("region", String(64), nullable=False),
    Column("access_key_id", String(200), nullable=False),
    Column("secret_access_key", String(200), nullable=False),
    Column("public_url", Text),
    Column("id", String(32), nullable=False),
    Column("provider", String(16), nullable=False, server_default="s3"),
    Column("path_template", Text),
    Column("url_template", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("account", "name"),
    UniqueConstraint("id", name="destinations_id"),
)

# Addresses that an account registered to be told of every task's end. `events` is a JSON list such
# as ["generate.completed"], null for all; `failures` counts messages that failed one after another.
hooks = Table(
    "hooks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("dialect", String(32), nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", String(80), nullable=False),
    Column("events", Text),
    Column("enabled", Boolean, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)
Index("hooks_of_account", hooks.c.account, hooks.c.dialect)

# Pictures that an account left here to be named in requests.
uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("key", String(128), nullable=False, unique=True),
    Column("media_type", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
Index("uploads_of_account", uploads.c.account, uploads.c.expires_ms)
Index("uploads_expiring", uploads.c.expires_ms)
