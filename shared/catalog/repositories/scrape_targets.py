"""Rows of `/v1/prometheus/targets`: processes that Prometheus should scrape."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import ScrapeTarget
from phema.shared.catalog.repositories.repository import Repository

FORGET_SECONDS = 3600.0
"""Rows of targets that were not renewed for this time are deleted when another target registers."""


class ScrapeTargetRepository(Repository):
    def register(self, kind: str, address: str, labels: dict[str, str] | None = None) -> None:
        """Add the target `address` (host:port), or replace an earlier process at the same address."""
        self._session.execute(
            delete(ScrapeTarget)
            .where(ScrapeTarget.seen_at < database_now() - FORGET_SECONDS)
            .execution_options(synchronize_session=False)
        )
        statement = self._insert(ScrapeTarget).values(address=address, kind=kind, labels=labels or {})
        self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["address"],
                set_={"kind": kind, "labels": statement.excluded.labels, "seen_at": database_now()},
            )
        )

    def touch(self, address: str) -> bool:
        """Renew the target. False when it is not registered."""
        statement = (
            update(ScrapeTarget)
            .where(ScrapeTarget.address == address)
            .values(seen_at=database_now())
            .returning(ScrapeTarget.address)
            .execution_options(synchronize_session=False)
        )
        return self._session.scalars(statement).one_or_none() is not None

    def remove(self, address: str) -> None:
        """Does nothing when the target is not registered."""
        self._session.execute(
            delete(ScrapeTarget).where(ScrapeTarget.address == address).execution_options(synchronize_session=False)
        )

    def live(self, max_age_s: float) -> list[ScrapeTarget]:
        """Targets renewed in the last `max_age_s` seconds, ordered by address."""
        return self._all(
            select(ScrapeTarget)
            .where(ScrapeTarget.seen_at >= database_now() - max_age_s)
            .order_by(ScrapeTarget.address)
        )

    def silent(self, older_than_s: float, newer_than_s: float) -> list[ScrapeTarget]:
        """Registered targets last renewed between `older_than_s` and `newer_than_s` seconds ago, ordered by address."""
        seen = ScrapeTarget.seen_at
        query = select(ScrapeTarget).where(seen < database_now() - older_than_s, seen >= database_now() - newer_than_s)
        return self._all(query.order_by(ScrapeTarget.address))
