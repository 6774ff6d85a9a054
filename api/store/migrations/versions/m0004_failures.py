"""Pictures that failed while the others of their task were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table."""
    task_id = sa.ForeignKey("tasks.id", ondelete="CASCADE")
    op.create_table(
        "failures",
        sa.Column("task_id", sa.String(32), task_id, nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "index"),
    )
