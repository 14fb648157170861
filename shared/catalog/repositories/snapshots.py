"""Snapshots: register the bytes first, then the row.

They go the other way: a row is retired (nobody plans with it any more), its object is deleted, the row is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import delete, func, select, tuple_, update

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.content_keys import canonical
from phema.shared.catalog.models import Snapshot
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.repository import Repository, Rows

_WIDEST = 1.0
"""Beyond every sigma_rel: averages that have none come last."""
_MOST_AT_ONCE = 1000
"""Parameters of one statement; databases allow a few ten thousand."""
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
        """The row of this time and profile, and whether it is new: a resumed run finds the one it had written.

        A retired row is found, too, and stays retired.
        """
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
        """`NotFound` when there is no such snapshot, or it is retired."""
        query = select(Snapshot).where(Snapshot.id == snapshot_id, Snapshot.retired_at.is_(None))
        return self._one(query, "snapshot", snapshot_id)

    def list(self, run_id: str, *, up_to: int | None = None) -> Rows[Snapshot]:
        """All of a run that are kept, in order of time, then profile; with `up_to`, those of at most so many images."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        if up_to is not None:
            query = query.where(Snapshot.num_images <= up_to)
        return self._all(query.order_by(*_ORDER))

    def find(self, run_id: str, num_images: int, profile_key: str) -> Snapshot | None:
        """The one of that time and profile, if it is kept."""
        return self._first(
            select(Snapshot).where(
                Snapshot.run_id == run_id,
                Snapshot.num_images == num_images,
                Snapshot.profile_key == profile_key,
                Snapshot.retired_at.is_(None),
            )
        )

    def latest(self, run_id: str) -> Snapshot | None:
        """One of the latest time, if any is kept."""
        query = select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_(None))
        return self._first(query.order_by(Snapshot.num_images.desc()))

    def fill_probe(self, key: str, probe: bytes) -> None:
        """Give the snapshot with that object its probe, if it lacks one: those of older versions of phema do."""
        statement = update(Snapshot).where(Snapshot.key == key, Snapshot.probe.is_(None)).values(probe=probe)
        self._session.execute(statement.execution_options(synchronize_session=False))

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

    def missing(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that are retired or removed. Ask while the run is locked, or the answer may be old."""
        wanted = set(ids)
        for some in _portions(wanted):
            kept = select(Snapshot.id).where(Snapshot.id.in_(some), Snapshot.retired_at.is_(None))
            wanted = wanted - set(self._session.scalars(kept))
        return wanted

    def set_pinned(self, ids: Iterable[str], pinned: bool) -> None:
        """Keep snapshots whatever policy is applied, or no longer; lock the run first. Retired ones stay retired."""
        for some in _portions(ids):
            statement = update(Snapshot).where(Snapshot.id.in_(some), Snapshot.retired_at.is_(None))
            self._session.execute(statement.values(pinned=pinned).execution_options(synchronize_session=False))

    def retire(self, ids: Iterable[str]) -> None:
        """Give snapshots up for ever: no list holds them any more. Lock the run first. Pinned ones stay."""
        for some in _portions(ids):
            statement = update(Snapshot).where(
                Snapshot.id.in_(some), Snapshot.retired_at.is_(None), Snapshot.pinned.is_(False)
            )
            values = {"retired_at": database_now()}
            self._session.execute(statement.values(values).execution_options(synchronize_session=False))

    def retired(self, run_id: str) -> Rows[Snapshot]:
        """Given up, with the row still there: the object may be gone."""
        return self._all(select(Snapshot).where(Snapshot.run_id == run_id, Snapshot.retired_at.is_not(None)))

    def remove(self, ids: Iterable[str]) -> int:
        """Delete the rows of retired snapshots whose objects are gone; how many there were. Twice is harmless."""
        removed = 0
        for some in _portions(ids):
            statement = delete(Snapshot).where(Snapshot.id.in_(some), Snapshot.retired_at.is_not(None))
            gone = self._session.scalars(
                statement.returning(Snapshot.id).execution_options(synchronize_session=False)
            ).all()
            removed += len(gone)
        return removed


def _portions(ids: Iterable[str]) -> Iterator[Rows[str]]:
    rest = list(ids)
    for first in range(0, len(rest), _MOST_AT_ONCE):
        yield rest[first : first + _MOST_AT_ONCE]


def _width(row: Snapshot) -> float:
    return _WIDEST if row.sigma_rel is None else row.sigma_rel
