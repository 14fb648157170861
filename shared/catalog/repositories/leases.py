"""The queue as workers see it: claim, heartbeat, end. Every change of a held job is guarded by its fence.

A lease that has run out is not lost until `expire` takes the job away: a worker that was only suspended may go on,
and two never hold one job, since every claim raises the fence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select, update

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.errors import LeaseLost
from phema.shared.catalog.models import Attempt, AttemptOutcome, Job, JobKind, JobState
from phema.shared.catalog.repositories.repository import FRESH, Repository

RETRY_SECONDS = 1.0
"""Pause before the first retry; it doubles with every further one."""
RETRY_SECONDS_LIMIT = 300.0


def retry_delay(attempts: int) -> float:
    """Seconds until a job that has failed `attempts` times since its last progress may be claimed again."""
    return float(min(RETRY_SECONDS * 2.0 ** min(max(attempts, 1) - 1, 30), RETRY_SECONDS_LIMIT))


def submission_id(job_id: str, fence: int) -> str:
    return f"{job_id}-a{fence}"


class LeaseRepository(Repository):
    """Changes of jobs by those who hold them. `LeaseLost` always means that nothing was changed."""

    def claim(self, kinds: Iterable[JobKind], *, owner: str, lease_seconds: float) -> Job | None:
        """Take the most urgent job that is due: lowest priority number, then first come. None when there is none.

        Dying after this commits is safe: the lease runs out and `expire` hands the job on.
        """
        # One statement, because SQLite ignores FOR UPDATE; on PostgreSQL, SKIP LOCKED lets claims pass each other.
        candidate = (
            select(Job.seq)
            .where(Job.state == JobState.QUEUED, Job.kind.in_(list(kinds)), Job.not_before <= database_now())
            .order_by(Job.priority, Job.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        statement = (
            update(Job)
            .where(Job.seq == candidate, Job.state == JobState.QUEUED)
            .values(
                state=JobState.RUNNING,
                fence=Job.fence + 1,
                attempts=Job.attempts + 1,
                lease_owner=owner,
                lease_expires_at=database_now() + lease_seconds,
                started_at=func.coalesce(Job.started_at, database_now()),
                message=None,
            )
            .returning(Job)
            .execution_options(synchronize_session=False, **FRESH)
        )
        job = self._session.scalars(statement).one_or_none()
        if job is not None:
            self._session.add(
                Attempt(job_id=job.id, number=job.fence, submission_id=submission_id(job.id, job.fence), owner=owner)
            )
            self._session.flush()
        return job

    def adopt(self, kinds: Iterable[JobKind], *, owner: str) -> None:
        """Make `owner` the one that looks after every running job of these kinds; its fence and lease stay."""
        self._session.execute(
            update(Job)
            .where(Job.state == JobState.RUNNING, Job.kind.in_(list(kinds)))
            .values(lease_owner=owner)
            .execution_options(synchronize_session=False)
        )

    def heartbeat(
        self,
        job_id: str,
        fence: int,
        *,
        lease_seconds: float,
        progress: float | None = None,
        message: str | None = None,
    ) -> bool:
        """Extend the lease from now on and report; True when the job should stop because a cancel was requested."""
        values: dict[str, Any] = {"lease_expires_at": database_now() + lease_seconds}
        if progress is not None:
            values["progress"] = min(max(float(progress), 0.0), 1.0)
        if message is not None:
            values["message"] = message
        statement = (
            update(Job)
            .where(Job.id == job_id, Job.fence == fence, Job.state == JobState.RUNNING)
            .values(**values)
            .returning(Job.cancel_requested)
            .execution_options(synchronize_session=False)
        )
        cancel_requested = self._session.scalars(statement).one_or_none()
        if cancel_requested is None:
            raise LeaseLost(job_id, fence)
        return cancel_requested

    def report(self, job_id: str, fence: int, message: str) -> None:
        """Say what the job does, beside the heartbeats that extend its lease."""
        self._held(job_id, fence)[0].message = message
        self._session.flush()

    def assert_fence(self, job_id: str, fence: int) -> Job:
        """Hold the job's row until the transaction ends, so that what is written beside it is written by its holder."""
        return self._held(job_id, fence)[0]

    def end_of(self, job_id: str, fence: int) -> JobState | None:
        """The terminal state that the job reached under this fence; None when it has not ended, or under another."""
        job = self._first(select(Job).where(Job.id == job_id, Job.fence == fence))
        return job.state if job is not None and job.state.terminal else None

    def succeed(self, job_id: str, fence: int, result: dict[str, Any] | None = None) -> Job:
        """End the job; write its results in the same transaction, or a death in between computes them twice."""
        job, now = self._held(job_id, fence)
        job.result = result
        job.progress = 1.0
        return self._end(job, now, JobState.SUCCEEDED, AttemptOutcome.SUCCEEDED)

    def fail(self, job_id: str, fence: int, error: str, *, retry: bool) -> JobState:
        """End the attempt with one sentence; with `retry` the job is queued again while it has attempts left."""
        job, now = self._held(job_id, fence)
        if not retry:
            self._end(job, now, JobState.FAILED, AttemptOutcome.FAILED, error)
        elif job.cancel_requested:
            self._end(job, now, JobState.CANCELLED, AttemptOutcome.FAILED, error)
        elif job.attempts >= job.max_attempts:
            self._end(job, now, JobState.FAILED, AttemptOutcome.FAILED, error)
        else:
            self._requeue(job, now, AttemptOutcome.FAILED, error, delay=retry_delay(job.attempts))
        return job.state

    def cancelled(self, job_id: str, fence: int) -> Job:
        """End a job whose worker has stopped at the user's request."""
        job, now = self._held(job_id, fence)
        return self._end(job, now, JobState.CANCELLED, AttemptOutcome.CANCELLED)

    def release(self, job_id: str, fence: int) -> Job:
        """Hand an unfinished job back on shutdown: the attempt does not count."""
        job, now = self._held(job_id, fence)
        if job.cancel_requested:
            return self._end(job, now, JobState.CANCELLED, AttemptOutcome.RELEASED)
        job.attempts = max(job.attempts - 1, 0)
        return self._requeue(job, now, AttemptOutcome.RELEASED)

    def made_progress(self, job_id: str, fence: int) -> None:
        """Something durable was gained: earlier attempts no longer count against the limit."""
        job, _ = self._held(job_id, fence)
        job.attempts = 0
        self._session.flush()

    def expire(self, kinds: Iterable[JobKind] | None = None) -> list[Job]:
        """Take away every job (of these kinds) whose holder is silent for longer than its lease.

        The jobs, in their new states: only this caller learns of them, so a service that has to clean up after a dead
        worker leaves the kinds it does not know to others.
        """
        query = (
            select(Job, database_now())
            .where(Job.state == JobState.RUNNING, Job.lease_expires_at < database_now())
            .order_by(Job.seq)
            .with_for_update(skip_locked=True)
        )
        if kinds is not None:
            query = query.where(Job.kind.in_(list(kinds)))
        expired: list[Job] = []
        for job, now in self._session.execute(query, execution_options=FRESH).all():
            silence = f"The worker {job.lease_owner} fell silent and its lease ran out"
            if job.cancel_requested:
                self._end(job, now, JobState.CANCELLED, AttemptOutcome.EXPIRED, f"{silence}.")
            elif job.attempts >= job.max_attempts:
                error = f"{silence}; all {job.max_attempts} attempts without progress are used up."
                self._end(job, now, JobState.FAILED, AttemptOutcome.EXPIRED, error)
            else:
                # No further pause: the lease that ran out was one.
                self._requeue(job, now, AttemptOutcome.EXPIRED, f"{silence}.")
            expired.append(job)
        return expired

    def _held(self, job_id: str, fence: int) -> tuple[Job, float]:
        """The locked row and the database's time; `LeaseLost` unless this attempt runs it."""
        query = select(Job, database_now()).where(Job.id == job_id).with_for_update()
        row = self._session.execute(query, execution_options=FRESH).one_or_none()
        if row is None or row[0].state is not JobState.RUNNING or row[0].fence != fence:
            raise LeaseLost(job_id, fence)
        return row[0], row[1]

    def _end(self, job: Job, now: float, state: JobState, outcome: AttemptOutcome, error: str | None = None) -> Job:
        job.state = state
        job.finished_at = now
        # What went wrong before an end that is no failure stays with its attempt.
        job.error = error if state is JobState.FAILED else None
        return self._close_attempt(job, now, outcome, error)

    def _requeue(
        self, job: Job, now: float, outcome: AttemptOutcome, error: str | None = None, delay: float = 0.0
    ) -> Job:
        job.state = JobState.QUEUED
        job.not_before = now + delay
        job.error = error
        return self._close_attempt(job, now, outcome, error)

    def _close_attempt(self, job: Job, now: float, outcome: AttemptOutcome, error: str | None) -> Job:
        job.lease_owner = None
        job.lease_expires_at = None
        self._session.flush()
        self._session.execute(
            update(Attempt)
            .where(Attempt.job_id == job.id, Attempt.number == job.fence)
            .values(ended_at=now, outcome=outcome, error=error)
            .execution_options(synchronize_session=False)
        )
        return job
