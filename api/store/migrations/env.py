"""Alembic's entry: migrates the connection that `api.store.migrate` hands over."""

from alembic import context

from api.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table; Alembic then rebuilds it.
    render_as_batch=True,
)
context.run_migrations()
