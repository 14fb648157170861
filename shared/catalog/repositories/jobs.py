"""The queue for those who ask for work: enqueue, cancel, list. `leases` serves those who do the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Text, cast, func, select, text, update
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.errors import NotFound, RunToBeDeleted
from phema.shared.catalog.models import (
    CANCEL_REASON,
    LIVE_CONTENT,
    LIVE_STATES,
    PRIORITY,
    Attempt,
    EventKind,
    Job,
    JobDependency,
    JobKind,
    JobState,
    Run,
)
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.dependencies import cancel_unneeded_children, set_needs
from phema.shared.catalog.repositories.repository import FRESH, Repository, Rows
from phema.shared.catalog.repositories.run_events import RunEventRepository


class JobRepository(Repository):
    """Rows of `/v1/jobs`. Jobs are never deleted."""

    def __init__(self, session: Session, request_id: str | None = None) -> None:
        super().__init__(session)
        self._request_id = request_id
        self._requests: dict[str, str | None] = {}
        self._events = RunEventRepository(session)

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
        parent_id: str | None = None,
        needs: Iterable[str] = (),
        not_before: float = 0.0,
    ) -> tuple[Job, bool]:
        """(job, whether it is new). A queued, running or succeeded job with the same content key is reused.

        Args:
            parent_id: the job that needs the new one, and whose cancellation cancels it too. Without, a user wants
                the job. A job that several want is cancelled with none of them.
            needs: ids of jobs that must have ended before the new job may be claimed.
            not_before: time before which the new job is not claimed.

        Raises `RunToBeDeleted`, unless the job itself deletes the run.
        """
        if kind is not JobKind.DELETE and run_id is not None:
            self.refuse_to_be_deleted(run_id)
        values = {
            "kind": kind,
            "payload": payload,
            "content_key": content_key,
            "run_id": run_id,
            "request_id": self._request_id or self._request_of(parent_id),
            "max_attempts": max_attempts,
            "priority": PRIORITY[kind] if priority is None else priority,
            "parent_id": parent_id,
            "not_before": not_before,
        }
        while True:
            new = job_id or new_id("job")
            if self._add(Job, {"id": new, **values}, ["content_key"], LIVE_CONTENT):
                set_needs(self._session, new, needs)
                self._ring()
                return self.get(new), True
            # As literal text, which SQLite needs to use the partial index.
            live = select(Job).where(Job.content_key == content_key, text(LIVE_CONTENT))
            existing = self._first(live)
            if existing is not None:
                self.share(existing.id, parent_id)
                return existing, False
            # The existing job failed or was cancelled between the two statements: try again.

    def _request_of(self, parent_id: str | None) -> str | None:
        """Id of the request behind a parent, which the log lines of its children carry too."""
        if parent_id is None:
            return None
        if parent_id not in self._requests:
            self._requests[parent_id] = self._session.scalar(select(Job.request_id).where(Job.id == parent_id))
        return self._requests[parent_id]

    def refuse_to_be_deleted(self, run_id: str) -> None:
        """Raise `RunToBeDeleted` if a user has asked to delete the run."""
        query = select(Run.name, Run.delete_at).where(Run.id == run_id, Run.delete_at.is_not(None))
        if (row := self._session.execute(query).first()) is not None:
            raise RunToBeDeleted(row.name, row.delete_at)

    def live_of(self, run_id: str) -> Rows[Job]:
        """The run's jobs that have not ended, except one that deletes it, oldest first."""
        query = select(Job).where(Job.run_id == run_id, Job.state.in_(LIVE_STATES), Job.kind != JobKind.DELETE)
        return self._all(query.order_by(Job.seq))

    def share(self, job_id: str, parent_id: str | None) -> None:
        """State that `parent_id` (None: a user) wants a job that exists already.

        If another job enqueued it, it is no longer cancelled with that one. A cancel that its holder has not obeyed
        yet is withdrawn: the job is then queued again. Raises `RunToBeDeleted`.
        """
        run_id = self._session.scalar(select(Job.run_id).where(Job.id == job_id))
        if run_id is not None:
            self.refuse_to_be_deleted(run_id)
        wanted = Job.id == job_id, Job.state.in_(LIVE_STATES)
        other = Job.parent_id.is_not(None) if parent_id is None else Job.parent_id != parent_id
        for condition, values in ((other, {"parent_id": None}), (Job.cancel_requested, {"cancel_requested": False})):
            statement = update(Job).where(*wanted, condition).values(**values)
            self._session.execute(statement.execution_options(synchronize_session=False))

    def get(self, job_id: str) -> Job:
        """Raises `NotFound`."""
        return self._one(select(Job).where(Job.id == job_id), "job", job_id)

    def list(
        self,
        *,
        kind: JobKind | None = None,
        state: JobState | None = None,
        run_id: str | None = None,
        parent_id: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Job]:
        """A page of jobs, newest first. `parent_id`: only jobs that this job enqueued.

        Without `kind` and `parent_id`, parts of evaluations and previews are left out: there are many.
        """
        query = select(Job)
        if parent_id is not None:
            query = query.where(Job.parent_id == parent_id)
        elif kind is None:
            query = query.where(cast(Job.kind, Text).not_in([JobKind.DRAW.value, JobKind.PREVIEW.value]))
        if run_id is not None:
            query = query.where(Job.run_id == run_id)
        # A run has few jobs. The casts keep SQLite from using an index of kind or state for one.
        of_all = run_id is None
        if kind is not None:
            query = query.where(Job.kind == kind if of_all else cast(Job.kind, Text) == kind.value)
        if state is not None:
            query = query.where(Job.state == state if of_all else cast(Job.state, Text) == state.value)
        return self._newest_first(query, Job.seq, after, limit)

    def needed(self, job_id: str) -> tuple[int, int]:
        """(how many of the jobs that the job needs have ended, how many it needs)."""
        query = (
            select(Job.state, func.count().label("number"))
            .join(JobDependency, JobDependency.needs_id == Job.id)
            .where(JobDependency.job_id == job_id)
            .group_by(Job.state)
        )
        counts = {row.state: row.number for row in self._session.execute(query)}
        return sum(count for state, count in counts.items() if state not in LIVE_STATES), sum(counts.values())

    def related(self, job_id: str, limit: int) -> tuple[Rows[Job], Rows[Job]]:
        """(jobs that this one needs, jobs that need it), oldest first, at most `limit` each."""
        needs = select(Job).join(JobDependency, JobDependency.needs_id == Job.id)
        needed_by = select(Job).join(JobDependency, JobDependency.job_id == Job.id)
        return (
            self._all(needs.where(JobDependency.job_id == job_id).order_by(Job.seq).limit(limit)),
            self._all(needed_by.where(JobDependency.needs_id == job_id).order_by(Job.seq).limit(limit)),
        )

    def cancel_tree(self, job_id: str) -> Job:
        """As `request_cancel`, and also cancel every unfinished job that needs this one, directly or not.

        Those are cancelled first: otherwise a queued one could be claimed when this one has ended. Raises `NotFound`.
        """
        job = self.get(job_id)
        for dependent in reversed(self._dependents(job_id)):
            self.request_cancel(dependent, f"The {job.kind} job {job_id}, which it needs, was cancelled.")
        return self.request_cancel(job_id)

    def _dependents(self, job_id: str) -> Rows[str]:
        """Ids of the unfinished jobs that need this one, nearest first."""
        found: dict[str, None] = {}
        waiting = [job_id]
        while waiting:
            nearest = (
                select(JobDependency.job_id)
                .join(Job, Job.id == JobDependency.job_id)
                .where(JobDependency.needs_id.in_(waiting), Job.state.in_(LIVE_STATES))
            )
            waiting = [one for one in self._session.scalars(nearest) if one not in found and one != job_id]
            found |= dict.fromkeys(waiting)
        return list(found)

    def show_progress(self, job_id: str, progress: float, message: str) -> None:
        """Set progress and message of a job that waits in the queue. A job in another state is unchanged."""
        statement = update(Job).where(Job.id == job_id, Job.state == JobState.QUEUED)
        statement = statement.values(progress=min(max(progress, 0.0), 1.0), message=message)
        self._session.execute(statement.execution_options(synchronize_session=False))

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

    def request_cancel(self, job_id: str, reason: str | None = None) -> Job:
        """Cancel a queued or paused job at once; ask the holder of a running job to stop; leave an ended job unchanged.

        Jobs that it enqueued, and that nothing else needs, are cancelled with it.

        The job of an external run has no holder, so it is cancelled at once too. `reason`: one sentence, which becomes
        the error of the cancelled job, where no user cancels it. Raises `NotFound`.
        """
        query = select(Job, database_now()).where(Job.id == job_id).with_for_update()
        row = self._session.execute(query, execution_options=FRESH).one_or_none()
        if row is None:
            raise NotFound("job", job_id)
        job, now = row[0], row[1]
        if not job.state.terminal:
            asked_before, job.cancel_requested = job.cancel_requested, True
            if reason is not None:
                job.payload = {**job.payload, CANCEL_REASON: reason}
            self._ring()
            if job.state is not JobState.RUNNING or job.kind is JobKind.EXTERNAL:
                job.state = JobState.CANCELLED
                job.error = job.cancel_reason
                job.finished_at = now
                self._session.flush()
                cancel_unneeded_children(self._session, job.id)
                self._events.record_job(job, EventKind.CANCELLED, reason=job.cancel_reason)
            elif not asked_before:
                self._events.record_job(job, EventKind.CANCEL_REQUESTED, reason=reason)
        self._session.flush()
        return job
