"""Alembic runs this module. Migrations use the connection and the transaction of `schema_version`."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from phema.shared.catalog.column_types import Figures
from phema.shared.catalog.models import Base


def render_item(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Write plain column types into migrations, so that later changes of the models do not change them."""
    return "sa.JSON()" if kind == "type" and isinstance(item, Figures) else False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_item=render_item,
    # SQLite changes a table by rebuilding it.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
