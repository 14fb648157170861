"""Answers already given to requests with an Idempotency-Key."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import IdempotencyRecord
from phema.shared.catalog.repositories.repository import Repository

KEPT_SECONDS = 7 * 24 * 3600.0
"""After this an answer may be forgotten, and its key be used for another request."""


class IdempotencyRepository(Repository):
    def get(self, key: str) -> IdempotencyRecord | None:
        """The answer given to this key. Waits for a request that is using the key now: call it before anything else."""
        if self._postgresql:
            self._session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"idempotency:{key}", 0))))
        return self._first(select(IdempotencyRecord).where(IdempotencyRecord.key == key))

    def save(self, key: str, request_hash: str, status: int, body: Any) -> None:
        """Keep the answer in the transaction that did the work; the first one kept stays."""
        values = {"key": key, "request_hash": request_hash, "status": status, "body": body}
        self._add(IdempotencyRecord, values, ["key"])

    def forget_old(self, older_than_s: float = KEPT_SECONDS) -> int:
        """Remove answers given longer ago; how many there were."""
        old = delete(IdempotencyRecord).where(IdempotencyRecord.created_at < database_now() - older_than_s)
        keys = self._session.scalars(old.returning(IdempotencyRecord.key).execution_options(synchronize_session=False))
        return len(keys.all())
