"""Rows of `/v1/runs/{run}/history`: figures of a run by number of images."""

from __future__ import annotations

from sqlalchemy import Text, cast, func, select

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.errors import BadCursor
from phema.shared.catalog.models import HistoryPoint
from phema.shared.catalog.pagination import Page, cut
from phema.shared.catalog.repositories.repository import Repository, Rows


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

    def count(self, run_id: str) -> int:
        """Number of the run's points."""
        query = select(func.count()).select_from(HistoryPoint).where(HistoryPoint.run_id == run_id)
        return self._session.scalar(query) or 0

    def thinned(self, run_id: str, most: int) -> Rows[HistoryPoint]:
        """At most `most` points in order of time, spread over the whole run: all of them if there are no more.

        Some figures are measured at few times. Of neighbouring points, one with most figures is kept.
        """
        mine = HistoryPoint.run_id == run_id
        query = select(HistoryPoint).where(mine).order_by(HistoryPoint.num_images)
        if (size := -(-self.count(run_id) // most)) <= 1:
            return self._all(query)
        from_last = func.row_number().over(order_by=HistoryPoint.num_images.desc()) - 1
        length = func.length(cast(HistoryPoint.values, Text))
        places = select(HistoryPoint.num_images, length.label("length"), (from_last // size).label("block"))
        blocks = places.where(mine).subquery()
        order = func.row_number().over(
            partition_by=blocks.c.block, order_by=(blocks.c.length.desc(), blocks.c.num_images.desc())
        )
        ordered = select(blocks.c.num_images, order.label("place")).subquery()
        kept = select(ordered.c.num_images).where(ordered.c.place == 1)
        return self._all(query.where(HistoryPoint.num_images.in_(kept)))


def _position(after: int | str) -> int:
    if isinstance(after, int):
        return after
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise BadCursor(after)
    return int(after)
