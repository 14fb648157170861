"""Objects of the store that no row names, so that none is forgotten, whichever process dies when.

A job lists the keys of its outputs before it writes them. The transaction that names an object in a row takes it off
the list. A transaction that removes the row of an object puts the object on the list. An entry is due when no job is
left that may name its object. A process claims an entry before it deletes the object. While the claim lasts, no other
process may write the object again.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Select, delete, or_, select, update

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.errors import BeingDeleted
from phema.shared.catalog.models import LIVE_STATES, Deletion, Job
from phema.shared.catalog.repositories.repository import Repository, Rows

CLAIM_SECONDS = 60.0
"""Time after which a claim has lapsed: its process has died, or has stopped deleting (see `claim`)."""
_UNSYNCHRONIZED = {"synchronize_session": False}


class DeletionRepository(Repository):
    def expect(self, job_id: str, keys: Iterable[str]) -> None:
        """List objects that a running job is about to write: they are due when it ends, unless a row names them.

        Raises BeingDeleted when an earlier object with one of the keys is being deleted now.
        """
        if deleted := self.expect_most(job_id, keys):
            raise BeingDeleted(deleted[0])

    def expect_most(self, job_id: str, keys: Iterable[str]) -> Rows[str]:
        """As `expect`, but objects that are being deleted now are left out. Returns their keys."""
        return [key for key in keys if not self._list(key, job_id)]

    def release(self, keys: Iterable[str], *, run_id: str | None = None) -> None:
        """List objects whose row this transaction removes. They are due at once.

        `run_id`: the run that this transaction deletes.
        """
        for key in keys:
            self._list(key, None, run_id)

    def keys_of(self, run_id: str, limit: int) -> Rows[str]:
        """Keys of some objects of a deleted run that are not deleted yet; empty when all are."""
        return list(self._session.scalars(select(Deletion.key).where(Deletion.run_id == run_id).limit(limit)))

    def hold(self, key: str) -> None:
        """List an object that this process is about to write without a job, under a key that is new.

        It is due in CLAIM_SECONDS, unless a later transaction names it (`keep`).
        """
        self._session.execute(self._insert(Deletion).values(key=key, job_id=None, claimed_at=database_now()))

    def keep(self, key: str) -> bool:
        """Take an object that `hold` listed off the list, because a row of this transaction names it.

        False when half of CLAIM_SECONDS have passed: another process may delete the object.
        """
        statement = delete(Deletion).where(
            Deletion.key == key, Deletion.claimed_at >= database_now() - CLAIM_SECONDS / 2
        )
        kept = statement.returning(Deletion.key).execution_options(**_UNSYNCHRONIZED)
        return self._session.execute(kept).first() is not None

    def named(self, keys: Iterable[str]) -> None:
        """Take objects off the list, because a row of this transaction names them."""
        statement = delete(Deletion).where(Deletion.key.in_(list(keys)))
        self._session.execute(statement.execution_options(**_UNSYNCHRONIZED))

    def claim(self, limit: int, keys: Iterable[str] | None = None) -> Rows[str]:
        """Claim due entries (of these keys) and return their keys.

        Commit, delete the objects, then call `done`. Begin no deletion later than half of CLAIM_SECONDS after the
        claim: another process may claim the entry then, or write the object again.
        """
        due = self._due().order_by(Deletion.created_at).limit(limit).with_for_update(skip_locked=True)
        if keys is not None:
            due = due.where(Deletion.key.in_(list(keys)))
        found = list(self._session.scalars(due))
        if found:
            statement = update(Deletion).where(Deletion.key.in_(found)).values(claimed_at=database_now())
            self._session.execute(statement.execution_options(**_UNSYNCHRONIZED))
        return found

    def any_due(self) -> bool:
        """Whether `claim` would find an entry. Only reads."""
        return self._session.scalars(self._due().limit(1)).first() is not None

    def done(self, keys: Iterable[str]) -> None:
        """Remove claimed entries whose objects are deleted."""
        statement = delete(Deletion).where(Deletion.key.in_(list(keys)), Deletion.claimed_at.is_not(None))
        self._session.execute(statement.execution_options(**_UNSYNCHRONIZED))

    def keys(self) -> set[str]:
        """Every key on the list."""
        return set(self._session.scalars(select(Deletion.key)))

    def _list(self, key: str, job_id: str | None, run_id: str | None = None) -> bool:
        """False when the entry is claimed; it stays as it is then."""
        statement = self._insert(Deletion).values(key=key, job_id=job_id, run_id=run_id)
        listed = statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"job_id": job_id, "run_id": run_id, "claimed_at": None},
            where=self._unclaimed(),
        ).returning(Deletion.key)
        return self._session.execute(listed).first() is not None

    def _due(self) -> Select[str]:
        live = select(Job.id).where(Job.state.in_(LIVE_STATES))
        return select(Deletion.key).where(
            or_(Deletion.job_id.is_(None), Deletion.job_id.not_in(live)), self._unclaimed()
        )

    def _unclaimed(self) -> ColumnElement[bool]:
        return or_(Deletion.claimed_at.is_(None), Deletion.claimed_at < database_now() - CLAIM_SECONDS)
