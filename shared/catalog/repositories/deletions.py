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
from phema.shared.catalog.models import Deletion, Job, JobState
from phema.shared.catalog.repositories.repository import Repository, Rows

CLAIM_SECONDS = 60.0
"""Time after which a claim has lapsed: its process has died, or has stopped deleting (see `claim`)."""
_UNSYNCHRONIZED = {"synchronize_session": False}


class DeletionRepository(Repository):
    def expect(self, job_id: str, keys: Iterable[str]) -> None:
        """List objects that a running job is about to write: they are due when it ends, unless a row names them.

        Raises BeingDeleted when an earlier object with one of the keys is being deleted now.
        """
        for key in keys:
            if not self._list(key, job_id):
                raise BeingDeleted(key)

    def release(self, keys: Iterable[str]) -> None:
        """List objects whose row this transaction removes. They are due at once."""
        for key in keys:
            self._list(key, None)

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

    def _list(self, key: str, job_id: str | None) -> bool:
        """False when the entry is claimed; it stays as it is then."""
        statement = self._insert(Deletion).values(key=key, job_id=job_id)
        listed = statement.on_conflict_do_update(
            index_elements=["key"], set_={"job_id": job_id, "claimed_at": None}, where=self._unclaimed()
        ).returning(Deletion.key)
        return self._session.execute(listed).first() is not None

    def _due(self) -> Select[str]:
        live = select(Job.id).where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
        return select(Deletion.key).where(
            or_(Deletion.job_id.is_(None), Deletion.job_id.not_in(live)), self._unclaimed()
        )

    def _unclaimed(self) -> ColumnElement[bool]:
        return or_(Deletion.claimed_at.is_(None), Deletion.claimed_at < database_now() - CLAIM_SECONDS)
