"""Rows of `/v1/runs/{run}/history`: figures of a run by number of images."""

from __future__ import annotations

from sqlalchemy import select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.errors import BadCursor
from phema.shared.catalog.models import HistoryPoint
from phema.shared.catalog.pagination import Page, cut
from phema.shared.catalog.repositories.repository import Repository


class HistoryRepository(Repository):
    def put(self, run_id: str, num_images: int, values: dict[str, float]) -> None:
        """Record the figures of one time. Figures of an earlier attempt at the same time are replaced."""
        statement = self._insert(HistoryPoint).values(run_id=run_id, num_images=num_images, values=values)
        self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "num_images"],
                set_={"values": statement.excluded["values"], "created_at": database_now()},
            )
        )

    def list(self, run_id: str, after: int | str | None = None, limit: int = 1000) -> Page[HistoryPoint]:
        """A page in order of time, after `after` images. A point's cursor is its `num_images`, so clients can poll."""
        query = select(HistoryPoint).where(HistoryPoint.run_id == run_id)
        if after is not None:
            query = query.where(HistoryPoint.num_images > _position(after))
        rows = self._all(query.order_by(HistoryPoint.num_images).limit(limit + 1))
        return cut(rows, limit, lambda row: str(row.num_images))


def _position(after: int | str) -> int:
    if isinstance(after, int):
        return after
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise BadCursor(after)
    return int(after)
