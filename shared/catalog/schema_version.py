"""Versions of the schema: the one that this phema needs, the one that a database has, and the upgrade."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from phema.shared.catalog.engine import UPGRADE_HINT
from phema.shared.catalog.errors import SchemaOutOfDate

MIGRATIONS = Path(__file__).parent / "migrations"


def migration_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an ini file. `migrations/env.py` uses the given connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@cache
def wanted_revision() -> str:
    head = ScriptDirectory.from_config(migration_config()).get_current_head()
    assert head is not None, "the package holds at least one migration"
    return head


@cache
def known_revisions() -> frozenset[str]:
    return frozenset(revision.revision for revision in ScriptDirectory.from_config(migration_config()).walk_revisions())


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def check(connection: Connection, location: str) -> None:
    """Raise `SchemaOutOfDate` unless the database at `location` has exactly this phema's schema."""
    current = current_revision(connection)
    if current == wanted_revision():
        return
    if current is None:
        raise SchemaOutOfDate(f"The catalog at {location} has no tables yet: {UPGRADE_HINT}.")
    _refuse_newer(current, location)
    raise SchemaOutOfDate(
        f"The catalog at {location} has schema {current}, this phema needs {wanted_revision()}: {UPGRADE_HINT}."
    )


def upgrade(connection: Connection, location: str) -> None:
    """Apply the missing migrations in the caller's transaction, all or none. Concurrent callers wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("phema:migrations", 0))))
    current = current_revision(connection)
    if current == wanted_revision():
        return
    if current is not None:
        _refuse_newer(current, location)
    command.upgrade(migration_config(connection), "head")


def _refuse_newer(current: str, location: str) -> None:
    if current not in known_revisions():
        raise SchemaOutOfDate(
            f"The catalog at {location} was upgraded by a newer phema (schema {current}): "
            "use that version or a newer one."
        )
