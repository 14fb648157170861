"""The queue for those who do the work: claim, heartbeat, end. Every change of a held job checks its fence.

A lease that has run out is lost only when `expire` takes the job away, so a worker that was suspended may continue.
Two attempts never hold one job, since every claim increments the fence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, or_, select, update
from sqlalchemy.orm import Session

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.errors import LeaseLost
from phema.shared.catalog.models import Attempt, AttemptOutcome, EventKind, FailureCause, Job, JobKind, JobState
from phema.shared.catalog.repositories.dependencies import (
    cancel_unneeded_children,
    is_needed,
    set_needs,
    unblocked,
)
from phema.shared.catalog.repositories.repository import FRESH, Repository
from phema.shared.catalog.repositories.run_events import RunEventRepository

RETRY_SECONDS = 1.0
"""Pause before the first retry. It doubles with every further retry."""
RETRY_SECONDS_LIMIT = 300.0
"""Longest pause before a retry."""


def retry_delay(attempts: int) -> float:
    """Seconds until a job may be claimed again that has failed `attempts` times since its last progress."""
    return float(min(RETRY_SECONDS * 2.0 ** min(max(attempts, 1) - 1, 30), RETRY_SECONDS_LIMIT))


def submission_id(job_id: str, fence: int) -> str:
    """Name of an attempt, unique among all jobs."""
    return f"{job_id}-a{fence}"


def _claimable(kinds: Iterable[JobKind]) -> list[ColumnElement[bool]]:
    return [
        Job.state == JobState.QUEUED,
        Job.kind.in_(list(kinds)),
        Job.not_before <= database_now(),
        unblocked(),
    ]


def _due(kinds: Iterable[JobKind]) -> Select[int]:
    """Selects the `seq` of the job that is due first."""
    return select(Job.seq).where(*_claimable(kinds)).order_by(Job.priority, Job.seq).limit(1)


def _cause(cause: FailureCause | None) -> dict[str, Any] | None:
    """Details of the event of a failure."""
    return None if cause is None else {"cause": cause.value}


def fell_silent(job: Job) -> str:
    return f"The worker {job.lease_owner} fell silent and its lease ran out"


class LeaseRepository(Repository):
    """Changes of jobs by the attempts that hold them.

    Every method that takes a fence raises `LeaseLost` if that attempt no longer holds the job, and changes nothing.
    Every change of a run's state is recorded as an event of the run.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._events = RunEventRepository(session)

    def next_due(self, kinds: Iterable[JobKind]) -> Job | None:
        """The job that `claim` would give now. Somebody else may claim it first."""
        return self._first(select(Job).where(Job.seq == _due(kinds).scalar_subquery()))

    def postpone(self, job_id: str, message: str, delay_seconds: float) -> None:
        """Leave a queued job in the queue for `delay_seconds` with a message. A job in another state is unchanged."""
        self._session.execute(
            update(Job)
            .where(Job.id == job_id, Job.state == JobState.QUEUED)
            .values(not_before=database_now() + delay_seconds, message=message)
            .execution_options(synchronize_session=False)
        )

    def claim(
        self, kinds: Iterable[JobKind], *, owner: str, lease_seconds: float, job_id: str | None = None
    ) -> Job | None:
        """Claim the due job with the lowest priority number, the oldest first. None when no job is due.

        With `job_id`, claim that job, or none if it is no longer due. If the owner dies after the commit, the lease
        runs out and `expire` queues the job again.
        """
        # One statement, since SQLite ignores FOR UPDATE. On PostgreSQL, SKIP LOCKED lets concurrent claims proceed.
        due = _due(kinds) if job_id is None else _due(kinds).where(Job.id == job_id)
        candidate = due.with_for_update(skip_locked=True).scalar_subquery()
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
                trouble=None,
                working=False,
                release_requested=False,
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
            self._events.record_job(job, EventKind.STARTING)
        return job

    def begin_work(self, job_id: str, fence: int) -> None:
        """The attempt trains now: the state of its run is `running`. Later calls by the same attempt do nothing."""
        job, _ = self._held(job_id, fence)
        if not job.working:
            job.working = True
            self._session.flush()
            self._events.record_job(job, EventKind.RUNNING)

    def seconds_until_due(self, kinds: Iterable[JobKind]) -> float | None:
        """Seconds until a queued job of these kinds may be claimed: 0 for now, None if none is queued."""
        kinds = list(kinds)
        queued = [Job.state == JobState.QUEUED, Job.kind.in_(kinds), unblocked()]
        due = select(Job.seq).where(*_claimable(kinds)).exists()
        # The database evaluates the second query only when no job is due, and then few jobs are queued.
        earliest = select(func.min(Job.not_before) - database_now()).where(*queued).scalar_subquery()
        seconds = self._session.scalars(select(case((due, 0.0), else_=earliest))).one()
        return None if seconds is None else max(float(seconds), 0.0)

    def count_due(self, kinds: Iterable[JobKind], *, limit: int) -> int:
        """How many jobs could be claimed now, counted up to `limit`."""
        due = select(Job.seq).where(*_claimable(kinds)).limit(limit).subquery()
        return self._session.scalar(select(func.count()).select_from(due)) or 0

    def adopt(self, kinds: Iterable[JobKind], *, owner: str) -> None:
        """Make `owner` the lease owner of every running job of these kinds. Fences and leases do not change."""
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
        keep: str | None = None,
    ) -> bool:
        """Extend the lease to `lease_seconds` from now and report. True when a cancel or a pause was requested.

        `keep`: a message of the job that `message` does not replace, because another process has just written it.
        """
        values: dict[str, Any] = {"lease_expires_at": database_now() + lease_seconds}
        if progress is not None:
            values["progress"] = min(max(float(progress), 0.0), 1.0)
        if message is not None:
            values["message"] = message if keep is None else case((Job.message == keep, keep), else_=message)
        statement = (
            update(Job)
            .where(Job.id == job_id, Job.fence == fence, Job.state == JobState.RUNNING)
            .values(**values)
            .returning(or_(Job.cancel_requested, Job.pause_requested))
            .execution_options(synchronize_session=False)
        )
        stop_requested = self._session.scalars(statement).one_or_none()
        if stop_requested is None:
            raise LeaseLost(job_id, fence)
        return bool(stop_requested)

    def report(self, job_id: str, fence: int, message: str) -> None:
        """Set the job's message without extending the lease."""
        self._held(job_id, fence)[0].message = message
        self._session.flush()

    def set_trouble(self, job_id: str, fence: int, trouble: str | None) -> None:
        """Set what the attempt waits for, in one sentence; None when nothing is wrong any more."""
        self._held(job_id, fence)[0].trouble = trouble
        self._session.flush()

    def request_release(self, job_id: str, fence: int) -> None:
        """Ask the processes of the attempt to store what they have, and to release the job. A new claim forgets it."""
        self._held(job_id, fence)[0].release_requested = True
        self._session.flush()

    def assert_fence(self, job_id: str, fence: int) -> Job:
        """Lock the job's row until the transaction ends. What the transaction writes is then written by the holder."""
        return self._held(job_id, fence)[0]

    def end_of(self, job_id: str, fence: int) -> JobState | None:
        """The terminal state that the job reached under this fence; None if it has not. Never raises `LeaseLost`."""
        job = self._first(select(Job).where(Job.id == job_id, Job.fence == fence))
        return job.state if job is not None and job.state.terminal else None

    def succeed(self, job_id: str, fence: int, result: dict[str, Any] | None = None) -> Job:
        """End the job. Write its results in the same transaction: a crash in between would compute them twice."""
        job, now = self._held(job_id, fence)
        job.result = result
        job.progress = 1.0
        return self._end(job, now, JobState.SUCCEEDED, AttemptOutcome.SUCCEEDED)

    def fail(self, job_id: str, fence: int, error: str, *, retry: bool, cause: FailureCause | None = None) -> JobState:
        """End the attempt with an error of one sentence. With `retry`, the job is queued again if attempts are left."""
        job, now = self._held(job_id, fence)
        if not retry:
            self._end(job, now, JobState.FAILED, AttemptOutcome.FAILED, error, cause)
        elif job.cancel_requested:
            self._end(job, now, JobState.CANCELLED, AttemptOutcome.FAILED, error, cause)
        elif job.pause_requested:
            self._pause(job, now, AttemptOutcome.FAILED, error, cause)
        elif job.attempts >= job.max_attempts:
            self._end(job, now, JobState.FAILED, AttemptOutcome.FAILED, error, cause)
        else:
            self._requeue(job, now, AttemptOutcome.FAILED, error, cause, delay=retry_delay(job.attempts))
        return job.state

    def cancelled(self, job_id: str, fence: int) -> Job:
        """End a job whose worker has stopped because a user cancelled it."""
        job, now = self._held(job_id, fence)
        return self._end(job, now, JobState.CANCELLED, AttemptOutcome.CANCELLED)

    def stopped(self, job_id: str, fence: int) -> Job:
        """End an attempt that has stopped because a user cancelled or paused the run.

        The job is then cancelled or paused. It is queued again when the user has withdrawn the pause meanwhile.
        """
        job, now = self._held(job_id, fence)
        if job.cancel_requested:
            return self._end(job, now, JobState.CANCELLED, AttemptOutcome.CANCELLED)
        if job.pause_requested:
            return self._pause(job, now, AttemptOutcome.PAUSED)
        job.attempts = max(job.attempts - 1, 0)
        return self._requeue(job, now, AttemptOutcome.RELEASED, reason="A pause was withdrawn.")

    def release(self, job_id: str, fence: int, message: str | None = None) -> Job:
        """Queue an unfinished job again, because its worker shuts down or finds no resources, which `message` says.

        The attempt does not count.
        """
        job, now = self._held(job_id, fence)
        job.message = message or job.message
        if job.cancel_requested:
            return self._end(job, now, JobState.CANCELLED, AttemptOutcome.RELEASED)
        if job.pause_requested:
            return self._pause(job, now, AttemptOutcome.RELEASED)
        job.attempts = max(job.attempts - 1, 0)
        return self._requeue(job, now, AttemptOutcome.RELEASED, reason=message)

    def wait_for(
        self,
        job_id: str,
        fence: int,
        needs: Iterable[str],
        *,
        message: str,
        progress: float | None = None,
        allowed_unfinished: int = 0,
    ) -> Job:
        """Queue the job again until at most `allowed_unfinished` of the jobs `needs` are unfinished.

        The attempt counts as progress. A job that a user has cancelled meanwhile ends.
        """
        job, now = self._held(job_id, fence)
        job.message = message
        if progress is not None:
            job.progress = min(max(progress, 0.0), 1.0)
        if job.cancel_requested:
            return self._end(job, now, JobState.CANCELLED, AttemptOutcome.RELEASED)
        # What the step has decided is stored in this transaction: attempts without progress are counted anew.
        job.attempts = 0
        job.allowed_unfinished = allowed_unfinished
        set_needs(self._session, job_id, needs)
        return self._requeue(job, now, AttemptOutcome.RELEASED)

    def set_needs(self, job_id: str, fence: int, needs: Iterable[str]) -> None:
        """Set which jobs a running job needs: they are not cancelled with others, and their results are kept."""
        self._held(job_id, fence)
        set_needs(self._session, job_id, needs)

    def made_progress(self, job_id: str, fence: int) -> None:
        """Reset the count of attempts, because the attempt has stored something that the next one continues."""
        job, _ = self._held(job_id, fence)
        job.attempts = 0
        self._session.flush()

    def silence(self, kinds: Iterable[JobKind]) -> tuple[float, bool]:
        """(the database's time, whether the lease of a job of these kinds has run out)."""
        ran_out = (
            select(Job.seq)
            .where(Job.state == JobState.RUNNING, Job.kind.in_(list(kinds)), Job.lease_expires_at < database_now())
            .exists()
        )
        now, silent = self._session.execute(select(database_now(), ran_out)).one()
        return float(now), bool(silent)

    def expire(
        self,
        kinds: Iterable[JobKind] | None = None,
        *,
        reason: Callable[[Job], str] = fell_silent,
        uncounted: Collection[str] = (),
    ) -> list[Job]:
        """Take every job (of these kinds) away whose lease has run out. Services call it through `LeaseExpiry`.

        Returns the jobs in their new states. Only this caller learns of them, so a service should name the kinds for
        which it can clean up after a dead worker.

        Args:
            reason: why the lease of a job ran out, without a full stop.
            uncounted: ids of jobs whose attempt does not count, because something else than the job ended it.
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
        lost = FailureCause.LOST_NODE
        for job, now in self._session.execute(query, execution_options=FRESH).all():
            silence = reason(job)
            if job.id in uncounted:
                job.attempts = max(job.attempts - 1, 0)
            if job.cancel_requested:
                self._end(job, now, JobState.CANCELLED, AttemptOutcome.EXPIRED, f"{silence}.", lost)
            elif job.pause_requested:
                self._pause(job, now, AttemptOutcome.EXPIRED, f"{silence}.", lost)
            elif job.attempts >= job.max_attempts:
                error = f"{silence}; all {job.max_attempts} attempts without progress are used up."
                self._end(job, now, JobState.FAILED, AttemptOutcome.EXPIRED, error, lost)
            else:
                # No delay: the time of the lease has passed already.
                self._requeue(job, now, AttemptOutcome.EXPIRED, f"{silence}.", lost)
            expired.append(job)
        return expired

    def _held(self, job_id: str, fence: int) -> tuple[Job, float]:
        """(the locked row, the database's time). Raises `LeaseLost` unless this attempt holds the job."""
        query = select(Job, database_now()).where(Job.id == job_id).with_for_update()
        row = self._session.execute(query, execution_options=FRESH).one_or_none()
        if row is None or row[0].state is not JobState.RUNNING or row[0].fence != fence:
            raise LeaseLost(job_id, fence)
        return row[0], row[1]

    def _end(
        self,
        job: Job,
        now: float,
        state: JobState,
        outcome: AttemptOutcome,
        error: str | None = None,
        cause: FailureCause | None = None,
    ) -> Job:
        job.state = state
        job.finished_at = now
        # An error before a cancel is kept with the attempt only.
        job.error = error if state is JobState.FAILED else None
        job.cause = cause if state is JobState.FAILED else None
        if state is JobState.CANCELLED:
            job.error = job.cancel_reason
        self._close_attempt(job, now, outcome, error, cause)
        reason = job.cancel_reason if state is JobState.CANCELLED else error
        self._events.record_job(job, EventKind(state.value), reason=reason, details=_cause(cause))
        if state is not JobState.SUCCEEDED:
            cancel_unneeded_children(self._session, job.id)
        if is_needed(self._session, job.id):
            self._ring()
        return job

    def _requeue(
        self,
        job: Job,
        now: float,
        outcome: AttemptOutcome,
        error: str | None = None,
        cause: FailureCause | None = None,
        delay: float = 0.0,
        reason: str | None = None,
    ) -> Job:
        """`reason`: why, of an attempt without an error."""
        job.state = JobState.QUEUED
        job.not_before = now + delay
        self._ring()
        job.error, job.cause = error, cause
        self._close_attempt(job, now, outcome, error, cause)
        self._events.record_job(job, EventKind.QUEUED, reason=error or reason, details=_cause(cause))
        return job

    def _pause(
        self, job: Job, now: float, outcome: AttemptOutcome, error: str | None = None, cause: FailureCause | None = None
    ) -> Job:
        """The attempt has ended and a pause was requested. An error is kept with the attempt only."""
        job.state = JobState.PAUSED
        job.pause_requested = False
        job.attempts = 0  # a resumed run has all its attempts, as one with a new job has
        job.error = job.cause = None
        self._close_attempt(job, now, outcome, error, cause)
        self._events.record_job(job, EventKind.PAUSED, reason=error, details=_cause(cause))
        return job

    def _close_attempt(
        self, job: Job, now: float, outcome: AttemptOutcome, error: str | None, cause: FailureCause | None
    ) -> Job:
        job.lease_owner = None
        job.working = False
        job.trouble = None
        job.lease_expires_at = None
        self._session.flush()
        self._session.execute(
            update(Attempt)
            .where(Attempt.job_id == job.id, Attempt.number == job.fence)
            .values(ended_at=now, outcome=outcome, error=error, cause=cause)
            .execution_options(synchronize_session=False)
        )
        return job
