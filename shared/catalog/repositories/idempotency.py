"""Responses to requests with an Idempotency-Key."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import IdempotencyRecord
from phema.shared.catalog.repositories.repository import Repository

KEPT_SECONDS = 7 * 24 * 3600.0
"""After this time, a response may be deleted and its key be used for another request."""


class IdempotencyRepository(Repository):
    def get(self, key: str) -> IdempotencyRecord | None:
        """The response stored for the key, or None. Waits for a request that uses the key now, so call it first."""
        if self._postgresql:
            self._session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"idempotency:{key}", 0))))
        return self._first(select(IdempotencyRecord).where(IdempotencyRecord.key == key))

    def save(self, key: str, request_hash: str, status: int, body: Any) -> None:
        """Store the response, in the transaction that did the work. An already stored response stays."""
        values = {"key": key, "request_hash": request_hash, "status": status, "body": body}
        self._add(IdempotencyRecord, values, ["key"])

    def forget_old(self, older_than_s: float = KEPT_SECONDS) -> int:
        """Delete older responses. Returns their number."""
        old = delete(IdempotencyRecord).where(IdempotencyRecord.created_at < database_now() - older_than_s)
        keys = self._session.scalars(old.returning(IdempotencyRecord.key).execution_options(synchronize_session=False))
        return len(keys.all())
