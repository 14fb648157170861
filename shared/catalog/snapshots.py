"""Snapshots: register the bytes first, then the row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, tuple_

from shared.catalog.columns import new_id
from shared.catalog.content import canonical
from shared.catalog.models import Snapshot
from shared.catalog.pages import Page, cut, decode_cursor, encode_cursor
from shared.catalog.repository import Repository, Rows

_WIDEST = 1.0
"""Beyond every sigma_rel: averages that have none come last."""
_ORDER = (Snapshot.num_images, func.coalesce(Snapshot.sigma_rel, _WIDEST), Snapshot.id)


class SnapshotRepository(Repository):
    def add(
        self,
        *,
        run_id: str,
        num_images: int,
        profile: dict[str, Any],
        dtype: str,
        key: str,
        size: int,
        sha256: str,
        probe: bytes | None = None,
    ) -> tuple[Snapshot, bool]:
        """The row of this time and profile, and whether it is new: a resumed run finds the one it had written."""
        profile_key = canonical(profile)
        values = {
            "id": new_id("snap"),
            "run_id": run_id,
            "num_images": num_images,
            "profile": profile,
            "profile_key": profile_key,
            "sigma_rel": profile.get("sigma_rel"),
            "dtype": dtype,
            "key": key,
            "size": size,
            "sha256": sha256,
            "probe": probe,
        }
        created = self._add(Snapshot, values, ["run_id", "num_images", "profile_key"])
        query = select(Snapshot).where(
            Snapshot.run_id == run_id, Snapshot.num_images == num_images, Snapshot.profile_key == profile_key
        )
        return self._all(query)[0], created

    def get(self, snapshot_id: str) -> Snapshot:
        """`NotFound` when there is no such snapshot."""
        return self._one(select(Snapshot).where(Snapshot.id == snapshot_id), "snapshot", snapshot_id)

    def list(self, run_id: str, *, up_to: int | None = None) -> Rows[Snapshot]:
        """All of a run that are kept, in order of time, then profile; with `up_to`, those of at most so many images."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        if up_to is not None:
            query = query.where(Snapshot.num_images <= up_to)
        return self._all(query.order_by(*_ORDER))

    def probes(self, run_id: str) -> dict[str, bytes]:
        """By id, of the snapshots that are kept and have one."""
        query = select(Snapshot.id, Snapshot.probe).where(
            Snapshot.run_id == run_id, Snapshot.retired_at.is_(None), Snapshot.probe.is_not(None)
        )
        return {row.id: row.probe for row in self._session.execute(query)}

    def page(self, run_id: str, *, after: str | None = None, limit: int = 50) -> Page[Snapshot]:
        """In order of time, then profile."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        if after is not None:
            query = query.where(tuple_(*_ORDER) > tuple_(*decode_cursor(after, int, float, str)))
        rows = self._all(query.order_by(*_ORDER).limit(limit + 1))
        return cut(rows, limit, lambda row: encode_cursor(row.num_images, _width(row), row.id))

    def times(self, run_id: str) -> Rows[int]:
        """Ascending `num_images` at which the run has snapshots."""
        query = (
            select(Snapshot.num_images)
            .where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
            .distinct()
            .order_by(Snapshot.num_images)
        )
        return list(self._session.scalars(query))


def _width(row: Snapshot) -> float:
    return _WIDEST if row.sigma_rel is None else row.sigma_rel
