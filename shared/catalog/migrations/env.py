"""Run by Alembic: migrations use the connection, and the transaction, of `shared.catalog.schema`."""

from alembic import context

from shared.catalog.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite can change a table only by rebuilding it.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
