"""The queue for those who ask for work: enqueue, cancel, list. `leases` serves those who do the work."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text, cast, select, text
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.errors import NotFound
from phema.shared.catalog.models import LIVE_CONTENT, PRIORITY, Attempt, Job, JobKind, JobState
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.repository import FRESH, Repository, Rows


class JobRepository(Repository):
    """Rows of `/v1/jobs`. Jobs are never deleted."""

    def __init__(self, session: Session, request_id: str | None = None) -> None:
        super().__init__(session)
        self._request_id = request_id

    def enqueue(
        self,
        kind: JobKind,
        *,
        payload: dict[str, Any],
        content_key: str,
        run_id: str | None = None,
        max_attempts: int = 5,
        priority: int | None = None,
        job_id: str | None = None,
    ) -> tuple[Job, bool]:
        """(job, whether it is new). A queued, running or succeeded job with the same content key is reused."""
        values = {
            "kind": kind,
            "payload": payload,
            "content_key": content_key,
            "run_id": run_id,
            "request_id": self._request_id,
            "max_attempts": max_attempts,
            "priority": PRIORITY[kind] if priority is None else priority,
        }
        while True:
            new = job_id or new_id("job")
            if self._add(Job, {"id": new, **values}, ["content_key"], LIVE_CONTENT):
                self._ring()
                return self.get(new), True
            # As literal text, which SQLite needs to use the partial index.
            live = select(Job).where(Job.content_key == content_key, text(LIVE_CONTENT))
            existing = self._first(live)
            if existing is not None:
                return existing, False
            # The existing job failed or was cancelled between the two statements: try again.

    def get(self, job_id: str) -> Job:
        """Raises `NotFound`."""
        return self._one(select(Job).where(Job.id == job_id), "job", job_id)

    def list(
        self,
        *,
        kind: JobKind | None = None,
        state: JobState | None = None,
        run_id: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Job]:
        """A page of jobs, newest first."""
        query = select(Job)
        if run_id is not None:
            query = query.where(Job.run_id == run_id)
        # A run has few jobs. The casts keep SQLite from using an index of kind or state for one.
        of_all = run_id is None
        if kind is not None:
            query = query.where(Job.kind == kind if of_all else cast(Job.kind, Text) == kind.value)
        if state is not None:
            query = query.where(Job.state == state if of_all else cast(Job.state, Text) == state.value)
        return self._newest_first(query, Job.seq, after, limit)

    def running(self, kind: JobKind) -> Rows[Job]:
        """Running jobs of the kind, oldest first."""
        return self._all(select(Job).where(Job.kind == kind, Job.state == JobState.RUNNING).order_by(Job.seq))

    def latest(self, kind: JobKind, run_id: str) -> str | None:
        """Id of the run's newest job of the kind, in any state.

        Retention retires snapshots and enqueues its job in one transaction. So a snapshot that was not retired at one
        look is not deleted until this id changes.
        """
        query = select(Job.id).where(Job.kind == kind, Job.run_id == run_id).order_by(Job.seq.desc()).limit(1)
        return self._session.scalars(query).first()

    def attempts(self, job_id: str) -> Rows[Attempt]:
        """All attempts at the job, oldest first."""
        return self._all(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once; ask the holder of a running job to stop; leave an ended job unchanged.

        The job of an external run has no holder, so it is cancelled at once too. Raises `NotFound`.
        """
        query = select(Job, database_now()).where(Job.id == job_id).with_for_update()
        row = self._session.execute(query, execution_options=FRESH).one_or_none()
        if row is None:
            raise NotFound("job", job_id)
        job, now = row[0], row[1]
        if not job.state.terminal:
            job.cancel_requested = True
            self._ring()
            if job.state is JobState.QUEUED or job.kind is JobKind.EXTERNAL:
                job.state = JobState.CANCELLED
                job.finished_at = now
        self._session.flush()
        return job
