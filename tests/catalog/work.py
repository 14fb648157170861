"""Counts what a database does for a block of statements: neither the machine nor what else runs there matters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event

from phema.shared.catalog import Catalog
from phema.shared.catalog.catalog import Transaction

_STEPS = 5
"""Instructions of SQLite's virtual machine between two calls of the progress handler."""


@dataclass
class Work:
    statements: list[str] = field(default_factory=list)
    rows: int = 0
    """About the number of rows and index entries that were read."""


class _Undo(Exception):
    pass


@contextmanager
def counted(catalog: Catalog) -> Iterator[tuple[Transaction, Work]]:
    """A transaction that is rolled back, and the work of its statements, complete after the block."""
    work, executed = Work(), list[tuple[str, Any]]()

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        work.statements.append(statement)
        executed.append((statement, parameters))

    engine = catalog._engine
    try:
        with catalog.transaction() as tx:
            connection = tx.jobs._session.connection()
            event.listen(engine, "before_cursor_execute", note)
            try:
                if engine.dialect.name == "sqlite":
                    with _sqlite_rows(connection, work):
                        yield tx, work
                else:
                    yield tx, work
            finally:
                event.remove(engine, "before_cursor_execute", note)
            raise _Undo
    except _Undo:
        pass
    if engine.dialect.name == "postgresql":
        work.rows = sum(_postgres_rows(engine.connect(), *one) for one in executed)


@contextmanager
def _sqlite_rows(connection: Connection, work: Work) -> Iterator[None]:
    """Counts steps of the virtual machine; about five belong to a row that is read and rejected."""
    driver = connection.connection.driver_connection
    assert driver is not None

    def step() -> int:
        work.rows += 1
        return 0

    driver.set_progress_handler(step, _STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, _STEPS)


def _postgres_rows(connection: Connection, statement: str, parameters: Any) -> int:
    """Rows that the scans of the statement's plan read."""
    with connection, connection.begin() as transaction:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
        found = plan.scalar()
        transaction.rollback()
    return _rows_of((found if isinstance(found, list) else json.loads(str(found)))[0]["Plan"])


def _rows_of(node: dict[str, Any]) -> int:
    own = 0
    if "Scan" in node["Node Type"]:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return int(own) + sum(_rows_of(child) for child in node.get("Plans", ()))
