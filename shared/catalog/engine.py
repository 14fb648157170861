"""Opens the database, and translates its errors into one sentence without the password."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from phema.shared.catalog.column_types import dump_json
from phema.shared.catalog.errors import CatalogError, CatalogUnreachable, SchemaOutOfDate

ANSWER_SECONDS = 10.0
"""Default time for which a statement waits: on SQLite for the transaction that writes, on PostgreSQL for its answer."""
_READ_ONLY = "phema_read_only"
_WRITTEN = "phema_written"
"""Key in a connection's info, for `has_written`."""
UPGRADE_HINT = "run `phema db upgrade`"

_MISSING_TABLE_SQLSTATES = ("42P01", "42703")
"""undefined_table, undefined_column."""


def parse_url(url: str) -> URL:
    """The URL with its driver. Raises `CatalogUnreachable` when the database is not supported."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The original error may quote part of the password.
        raise CatalogUnreachable("the configured URL", "it is not a database URL") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise CatalogUnreachable(
                describe(parsed), "processes cannot share a database in memory, give sqlite:///PATH instead"
            )
        return parsed.set(drivername="sqlite+pysqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise CatalogUnreachable(describe(parsed), "its URL must start with sqlite:/// or postgresql://")


def describe(url: URL) -> str:
    """The URL for messages: without the password, and without the query, which could contain one."""
    bare = URL.create(
        url.get_backend_name(), username=url.username, host=url.host, port=url.port, database=url.database
    )
    return bare.render_as_string(hide_password=True)


def sqlite_path(url: URL) -> Path | None:
    """The file of a plain SQLite URL; None for PostgreSQL and for `file:` URIs."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    return Path(url.database)


def open_engine(url: URL, answer_seconds: float) -> Engine:
    """An engine whose transactions are safe beside those of other processes. Connects on first use.

    A statement that has no answer after `answer_seconds` fails, and the catalog counts as unreachable.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, answer_seconds)
    try:
        engine = create_engine(url, json_serializer=dump_json, pool_size=8, max_overflow=32, pool_pre_ping=True)
        # Imports psycopg, which installations on SQLite lack.
        from phema.shared.catalog.postgres_connection import limit_waiting
    except ModuleNotFoundError as error:
        reason = "the driver psycopg is not installed, run pip install 'phema[postgres]'"
        raise CatalogUnreachable(describe(url), reason) from error
    limit_waiting(engine, answer_seconds)
    return engine


def _open_sqlite(url: URL, busy_seconds: float) -> Engine:
    engine = create_engine(
        url,
        json_serializer=dump_json,
        pool_size=8,
        max_overflow=32,
        # The driver would begin transactions too late: `_begin` below begins them.
        connect_args={"timeout": busy_seconds, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later can fail with "database is locked" without waiting, so
        # writers take the lock at once. Readers of a WAL database need none.
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def note_writes(engine: Engine) -> None:
    """Make `has_written` work for the engine's connections."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", lambda connection: connection.info.update({_WRITTEN: _changes(connection)}))
        return

    @event.listens_for(engine, "after_cursor_execute")
    def _note(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if (context.isinsert or context.isupdate or context.isdelete) and cursor.rowcount != 0:
            connection.info[_WRITTEN] = True


def has_written(connection: Connection) -> bool:
    """Whether the connection's transaction has changed rows. On PostgreSQL, also after one that was rolled back."""
    if connection.dialect.name == "sqlite":
        return bool(_changes(connection) != connection.info[_WRITTEN])
    return bool(connection.info.pop(_WRITTEN, False))


def _changes(connection: Connection) -> int:
    """Rows that SQLite's connection has changed since it was opened. `rowcount` does not know those of RETURNING."""
    driver: Any = connection.connection.driver_connection
    return int(driver.total_changes)


def use_write_ahead_log(connection: Any) -> None:
    """Switch SQLite's file, of a driver's connection without a transaction, to WAL.

    SQLite does not wait for a lock here, so processes that start together must repeat it. Raises the driver's error
    after ANSWER_SECONDS.
    """
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def read_only(engine: Engine) -> Engine:
    """The same engine and connection pool, for transactions that only read."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine.execution_options(**{_READ_ONLY: True})


def refuses_writes(connection: Connection) -> bool:
    """Whether a PostgreSQL server is a standby or read-only. SQLite reports this when the transaction begins."""
    if connection.dialect.name != "postgresql":
        return False
    return str(connection.scalar(text("SHOW transaction_read_only"))) == "on"


def translate(error: DBAPIError, url: URL) -> CatalogError | None:
    """The error as one sentence; None for a bug in phema, which should show its traceback."""
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate in _MISSING_TABLE_SQLSTATES or reason.startswith(("no such table", "no such column")):
        return SchemaOutOfDate(f"The catalog at {describe(url)} lacks tables of this version of phema: {UPGRADE_HINT}.")
    if type(error).__name__ in ("OperationalError", "InterfaceError", "DatabaseError", "InternalError"):
        return CatalogUnreachable(describe(url), reason)
    return None
