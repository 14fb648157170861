"""Rows of `/v1/snapshots`.

To add a snapshot, write its object, then `add` its row. To delete one, `retire` its row, so that plans no longer use
it, delete its object, then `remove` the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import delete, func, select, tuple_, update

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.content_keys import canonical, profile_identity
from phema.shared.catalog.models import Snapshot
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.repository import Repository, Rows

_WIDEST = 1.0
"""Larger than every sigma_rel: averages without a sigma_rel come last."""
_MAX_PARAMETERS = 1000
"""Ids in one statement; databases allow a few tens of thousands."""
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
        """(the row of this time and profile, whether it is new). A resumed run finds the rows it had written before.

        A retired row is returned too, and stays retired.
        """
        profile_key = canonical(profile_identity(profile))
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
        """Raises `NotFound`, also when the snapshot is retired."""
        query = select(Snapshot).where(Snapshot.id == snapshot_id, Snapshot.retired_at.is_(None))
        return self._one(query, "snapshot", snapshot_id)

    def list(self, run_id: str, *, after: int | None = None, up_to: int | None = None) -> Rows[Snapshot]:
        """The run's snapshots, without retired ones, by time, then profile.

        `after` and `up_to` limit `num_images`, `up_to` included.
        """
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        if after is not None:
            query = query.where(Snapshot.num_images > after)
        if up_to is not None:
            query = query.where(Snapshot.num_images <= up_to)
        return self._all(query.order_by(*_ORDER))

    def find(self, run_id: str, num_images: int, profile_key: str) -> Snapshot | None:
        """The snapshot of that time and profile; None if it does not exist or is retired."""
        return self._first(
            select(Snapshot).where(
                Snapshot.run_id == run_id,
                Snapshot.num_images == num_images,
                Snapshot.profile_key == profile_key,
                Snapshot.retired_at.is_(None),
            )
        )

    def latest(self, run_id: str) -> Snapshot | None:
        """A snapshot of the run's latest time, or None."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        return self._first(query.order_by(Snapshot.num_images.desc()))

    def fill_probe(self, key: str, probe: bytes) -> None:
        """Set the probe of the snapshot with object `key`, if it has none: older versions of phema wrote none."""
        statement = update(Snapshot).where(Snapshot.key == key, Snapshot.probe.is_(None)).values(probe=probe)
        self._session.execute(statement.execution_options(synchronize_session=False))

    def probes(self, run_id: str) -> dict[str, bytes]:
        """id -> probe, for the run's snapshots that have a probe and are not retired."""
        query = select(Snapshot.id, Snapshot.probe).where(
            Snapshot.run_id == run_id, Snapshot.retired_at.is_(None), Snapshot.probe.is_not(None)
        )
        return {row.id: row.probe for row in self._session.execute(query)}

    def page(self, run_id: str, *, after: str | None = None, limit: int = 50) -> Page[Snapshot]:
        """A page of the run's snapshots, by time, then profile."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        if after is not None:
            query = query.where(tuple_(*_ORDER) > tuple_(*decode_cursor(after, int, float, str)))
        rows = self._all(query.order_by(*_ORDER).limit(limit + 1))
        return cut(rows, limit, lambda row: encode_cursor(row.num_images, _width(row), row.id))

    def times(self, run_id: str) -> Rows[int]:
        """Every `num_images` at which the run has snapshots, ascending."""
        query = (
            select(Snapshot.num_images)
            .where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
            .distinct()
            .order_by(Snapshot.num_images)
        )
        return list(self._session.scalars(query))

    def missing(self, ids: Iterable[str]) -> set[str]:
        """The `ids` that are retired or removed. Lock the run first; otherwise the result may be outdated."""
        wanted = set(ids)
        for some in _batches(wanted):
            kept = select(Snapshot.id).where(Snapshot.id.in_(some), Snapshot.retired_at.is_(None))
            wanted = wanted - set(self._session.scalars(kept))
        return wanted

    def set_pinned(self, ids: Iterable[str], pinned: bool) -> None:
        """Pin or unpin snapshots; policies keep pinned ones. Lock the run first. Retired snapshots stay retired."""
        for some in _batches(ids):
            statement = update(Snapshot).where(Snapshot.id.in_(some), Snapshot.retired_at.is_(None))
            self._session.execute(statement.values(pinned=pinned).execution_options(synchronize_session=False))

    def retire(self, ids: Iterable[str]) -> None:
        """Hide snapshots from all lists, for good. Lock the run first. Pinned snapshots stay."""
        for some in _batches(ids):
            statement = update(Snapshot).where(
                Snapshot.id.in_(some), Snapshot.retired_at.is_(None), Snapshot.pinned.is_(False)
            )
            values = {"retired_at": database_now()}
            self._session.execute(statement.values(values).execution_options(synchronize_session=False))

    def retired(self, run_id: str) -> Rows[Snapshot]:
        """Retired snapshots whose row still exists. Their objects may be deleted."""
        return self._all(select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_not(None)))

    def remove(self, ids: Iterable[str]) -> int:
        """Delete the rows of retired snapshots, after their objects. Returns how many rows existed."""
        removed = 0
        for some in _batches(ids):
            statement = delete(Snapshot).where(Snapshot.id.in_(some), Snapshot.retired_at.is_not(None))
            gone = self._session.scalars(
                statement.returning(Snapshot.id).execution_options(synchronize_session=False)
            ).all()
            removed += len(gone)
        return removed


def _batches(ids: Iterable[str]) -> Iterator[Rows[str]]:
    rest = list(ids)
    for first in range(0, len(rest), _MAX_PARAMETERS):
        yield rest[first : first + _MAX_PARAMETERS]


def _width(row: Snapshot) -> float:
    return _WIDEST if row.sigma_rel is None else row.sigma_rel
