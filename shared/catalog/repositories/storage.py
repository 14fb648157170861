"""What every run stores, for an overview of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute

from phema.shared.catalog.models import Basis, Checkpoint, Reconstruction, Run, Snapshot
from phema.shared.catalog.repositories.repository import Repository


@dataclass(frozen=True)
class Stored:
    """Objects of one kind of a run."""

    count: int = 0
    size: int = 0
    """Bytes."""


@dataclass(frozen=True)
class StoredByRun:
    """What one run stores. Pictures and figures, which are small, are not counted."""

    run_id: str
    name: str
    snapshots: Stored
    checkpoints: Stored
    reconstructions: Stored
    bases: Stored

    @property
    def size(self) -> int:
        """Bytes of all kinds together."""
        return sum(kind.size for kind in (self.snapshots, self.checkpoints, self.reconstructions, self.bases))


class StorageRepository(Repository):
    def by_run(self, limit: int) -> Sequence[StoredByRun]:
        """The runs that store most, largest first; runs that store nothing are left out."""
        snapshots, checkpoints = (
            self._sums(Snapshot.run_id, Snapshot.size),
            self._sums(Checkpoint.run_id, Checkpoint.size),
        )
        reconstructions = self._sums(Reconstruction.run_id, Reconstruction.size)
        bases = self._bases()
        ids = {*snapshots, *checkpoints, *reconstructions, *bases}
        nothing = Stored()
        found = [
            StoredByRun(
                run_id=run_id,
                name=name,
                snapshots=snapshots.get(run_id, nothing),
                checkpoints=checkpoints.get(run_id, nothing),
                reconstructions=reconstructions.get(run_id, nothing),
                bases=bases.get(run_id, nothing),
            )
            for run_id, name in self._session.execute(select(Run.id, Run.name))
            if run_id in ids
        ]
        return sorted(found, key=lambda one: -one.size)[:limit]

    def _sums(self, run_id: InstrumentedAttribute[str], size: InstrumentedAttribute[Any]) -> dict[str, Stored]:
        query = select(run_id, func.count(), func.sum(size)).where(size.is_not(None)).group_by(run_id)
        return {run: Stored(count, int(total or 0)) for run, count, total in self._session.execute(query)}

    def _bases(self) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        query = select(Basis.run_id, Basis.vectors).where(Basis.vectors.is_not(None))
        for run_id, vectors in self._session.execute(query):
            before = found.get(run_id, Stored())
            size = sum(vector["size"] for vector in vectors)
            found[run_id] = Stored(before.count + 1, before.size + size)
        return found
