"""Base class of the repositories."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Insert, Select, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from phema.shared.catalog.errors import NotFound
from phema.shared.catalog.models import Base
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor

M = TypeVar("M", bound=Base)
Item = TypeVar("Item")
Rows = list[Item]
"""`list`, for repositories whose method `list` hides the builtin."""
RINGS = "rings"
"""Key in the session's info: the transaction makes work available."""
FRESH = {"populate_existing": True}
"""Read rows again from the database: UPDATE statements do not change objects that the session has loaded."""


class Repository:
    """SQL within one transaction, which the caller commits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _ring(self) -> None:
        """Wake those who wait for work when the transaction commits."""
        self._session.info[RINGS] = True

    @property
    def _postgresql(self) -> bool:
        return self._session.get_bind().dialect.name == "postgresql"

    def _all(self, query: Select[M]) -> list[M]:
        return list(self._session.scalars(query, execution_options=FRESH).unique())

    def _first(self, query: Select[M]) -> M | None:
        return self._session.scalars(query.limit(1), execution_options=FRESH).unique().first()

    def _one(self, query: Select[M], what: str, key: str) -> M:
        """The row. Raises `NotFound`."""
        # PostgreSQL rejects strings with NUL, which a URL may contain.
        row = None if "\x00" in key else self._first(query)
        if row is None:
            raise NotFound(what, key)
        return row

    def _insert(self, model: type[M]) -> postgresql.Insert | sqlite.Insert:
        """The dialect's INSERT, which supports ON CONFLICT."""
        return postgresql.insert(model) if self._postgresql else sqlite.insert(model)

    def _add(self, model: type[M], values: dict[str, Any], unique: list[str], where: str | None = None) -> bool:
        """Insert a row. False when another row has the same `unique` columns; waits until that row is committed."""
        statement: Insert = (
            self._insert(model)
            .values(**values)
            .on_conflict_do_nothing(index_elements=unique, index_where=None if where is None else text(where))
            .returning(*inspect(model).primary_key)
        )
        return self._session.execute(statement).first() is not None

    def _newest_first(
        self, query: Select[M], seq: InstrumentedAttribute[int], after: str | None, limit: int
    ) -> Page[M]:
        """A page, newest row first. Rows inserted later do not appear on later pages."""
        if after is not None:
            query = query.where(seq < decode_cursor(after, int)[0])
        rows = self._all(query.order_by(seq.desc()).limit(limit + 1))
        return cut(rows, limit, lambda row: encode_cursor(getattr(row, seq.key)))
