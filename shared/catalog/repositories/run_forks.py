"""Forks: runs that began from a checkpoint or from a reconstruction of another run."""

from __future__ import annotations

from sqlalchemy import exists, select

from phema.shared.catalog.models import Checkpoint, Run
from phema.shared.catalog.repositories.repository import Repository, Rows


class RunForkRepository(Repository):
    def of(self, run_id: str) -> Rows[Run]:
        """The runs that began from this one, oldest first, without deleted ones."""
        query = select(Run).where(Run.parent["run_id"].as_string() == run_id, Run.deleted_at.is_(None))
        return self._all(query.order_by(Run.seq))

    def waiting(self, run_id: str) -> Rows[Run]:
        """Those of them that have no checkpoint of their own: they still read the object that they begin from."""
        own = exists(select(Checkpoint.id).where(Checkpoint.run_id == Run.id).correlate(Run))
        query = select(Run).where(Run.parent["run_id"].as_string() == run_id, Run.deleted_at.is_(None), ~own)
        return self._all(query.order_by(Run.seq))

    def needed_keys(self, run_id: str) -> set[str]:
        """Keys of the run's objects from which its forks would begin again."""
        return {str(run.parent["key"]) for run in self.waiting(run_id) if run.parent is not None}
