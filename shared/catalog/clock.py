"""The database's clock. Leases are compared with this clock alone, since the clocks of workers may differ."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_now(FunctionElement[float]):
    """SQL function: seconds since the epoch (UTC), with fraction, at the moment the statement runs."""

    name = "database_now"
    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite(element: database_now, compiler: Any, **options: Any) -> str:
    # unixepoch('now', 'subsec') needs SQLite 3.42; the Julian day is exact to 0.04 ms and SQLite's clock to 1 ms.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql(element: database_now, compiler: Any, **options: Any) -> str:
    # now() is the start of the transaction, which may have waited for a lock since.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
