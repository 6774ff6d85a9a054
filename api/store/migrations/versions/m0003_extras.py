"""What tasks are asked besides pictures, registered webhooks, uploads, paths in destinations."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns and tables; destinations that are there get an id each."""
    op.add_column("tasks", sa.Column("extras", sa.Text, nullable=False, server_default="{}"))
    op.add_column("tasks", sa.Column("findings", sa.Text, nullable=False, server_default="{}"))
    op.add_column("outputs", sa.Column("rating", sa.Text))
    op.add_column("outbox", sa.Column("hook_id", sa.String(32)))
    _destinations()
    _hooks()
    _uploads()


def _destinations() -> None:
    with op.batch_alter_table("destinations") as table:
        table.add_column(sa.Column("id", sa.String(32)))
        table.add_column(sa.Column("provider", sa.String(16), nullable=False, server_default="s3"))
        table.add_column(sa.Column("path_template", sa.Text))
        table.add_column(sa.Column("url_template", sa.Text))
        table.add_column(sa.Column("updated_ms", sa.BigInteger, nullable=False, server_default="0"))
    rows = sa.table("destinations", *map(sa.column, ("account", "name", "id")))
    connection = op.get_bind()
    for account, name in connection.execute(sa.select(rows.c.account, rows.c.name)).all():
        mine = sa.and_(rows.c.account == account, rows.c.name == name)
        connection.execute(sa.update(rows).where(mine).values(id=f"dst_{secrets.token_hex(12)}"))
    connection.execute(
        sa.text("UPDATE destinations SET updated_ms = created_ms WHERE updated_ms = 0")
    )
    with op.batch_alter_table("destinations") as table:
        table.alter_column("id", existing_type=sa.String(32), nullable=False)
        table.create_unique_constraint("destinations_id", ["id"])


def _hooks() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.String(80), nullable=False),
        sa.Column("events", sa.Text),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("hooks_of_account", "hooks", ["account", "dialect"])


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False, unique=True),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("uploads_of_account", "uploads", ["account", "expires_ms"])
    op.create_index("uploads_expiring", "uploads", ["expires_ms"])
