"""Accounts, keys, the ledger, idempotency, the outbox and destinations."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

from api.keys import new_webhook_secret

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables of who pays and who is told, and what tasks and outputs say of it."""
    op.add_column("tasks", sa.Column("key_id", sa.String(16)))
    op.add_column("tasks", sa.Column("delivery", sa.Text, nullable=False, server_default="{}"))
    op.add_column("tasks", sa.Column("files_deleted_ms", sa.BigInteger))
    op.add_column("outputs", sa.Column("destination_url", sa.Text))
    kept = sa.text("files_deleted_ms IS NULL")
    op.create_index(
        "tasks_kept", "tasks", ["finished_ms"], sqlite_where=kept, postgresql_where=kept
    )
    _accounts()
    _ledger()
    _idempotency()
    _outbox()
    _destinations()


def _accounts() -> None:
    made = op.create_table(
        "accounts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("metered", sa.Boolean, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("webhook_secret", sa.String(80), nullable=False),
        sa.Column("old_webhook_secret", sa.String(80)),
        sa.Column("secret_changed_ms", sa.BigInteger),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("(NOT metered) OR balance >= 0", name="no_overdraft"),
        sa.CheckConstraint("held >= 0", name="no_negative_hold"),
    )
    # Whoever uses a server without keys.
    op.bulk_insert(
        made,
        [
            {
                "name": "",
                "metered": False,
                "balance": 0,
                "held": 0,
                "webhook_secret": new_webhook_secret(),
                "created_ms": time.time_ns() // 1_000_000,
            }
        ],
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("account", sa.String(64), sa.ForeignKey("accounts.name"), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(32)),
        sa.Column("rate_per_minute", sa.Integer),
        sa.Column("max_unfinished", sa.Integer),
        sa.Column("spend_limit", sa.BigInteger),
        sa.Column("spend_period", sa.String(8)),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
    )
    op.create_index("keys_of_account", "keys", ["account"])


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("task_id", sa.String(32)),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("task_id", "kind", name="once_per_task"),
    )
    op.create_index("ledger_of_account", "ledger", ["account", "id"])
    op.create_index("ledger_of_key", "ledger", ["key_id", "created_ms"])


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("route", sa.String(100), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("task_id", sa.String(32), nullable=False),
        sa.Column("reply", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "route", "key"),
    )
    op.create_index("idempotency_age", "idempotency", ["created_ms"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column(
            "task_id",
            sa.String(32),
            sa.ForeignKey("tasks.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_ms", sa.BigInteger),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.String(200)),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "state IN ('waiting', 'delivered', 'failed')", name="known_outbox_state"
        ),
    )
    op.create_index("outbox_due", "outbox", ["next_ms"])
    settled = sa.text("next_ms IS NULL")
    op.create_index(
        "outbox_settled",
        "outbox",
        ["created_ms"],
        sqlite_where=settled,
        postgresql_where=settled,
    )
    op.create_index("outbox_of_task", "outbox", ["task_id"])


def _destinations() -> None:
    op.create_table(
        "destinations",
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("access_key_id", sa.String(200), nullable=False),
        sa.Column("secret_access_key", sa.String(200), nullable=False),
        sa.Column("public_url", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "name"),
    )
