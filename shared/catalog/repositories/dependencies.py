"""Jobs that need other jobs: when they may be claimed, and what their cancellation cancels."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models import LIVE_STATES, Job, JobDependency, JobState

_UNSYNCHRONIZED = {"synchronize_session": False}


def unblocked() -> ColumnElement[bool]:
    """SQL: few enough of the jobs that a job needs are unfinished. It is read anew at each claim, so none is missed."""
    needed = aliased(Job)
    unfinished = (
        select(func.count())
        .select_from(JobDependency)
        .join(needed, needed.id == JobDependency.needs_id)
        .where(JobDependency.job_id == Job.id, needed.state.in_(LIVE_STATES))
        .correlate(Job)
        .scalar_subquery()
    )
    return unfinished <= Job.allowed_unfinished


def set_needs(session: Session, job_id: str, needs: Iterable[str]) -> None:
    """Make the job need exactly these jobs."""
    session.execute(delete(JobDependency).where(JobDependency.job_id == job_id).execution_options(**_UNSYNCHRONIZED))
    session.add_all(JobDependency(job_id=job_id, needs_id=needed) for needed in dict.fromkeys(needs))
    session.flush()


def is_needed(session: Session, job_id: str) -> bool:
    """Whether a queued or running job needs this one."""
    dependent = aliased(Job)
    query = (
        select(JobDependency.job_id)
        .join(dependent, dependent.id == JobDependency.job_id)
        .where(JobDependency.needs_id == job_id, dependent.state.in_(LIVE_STATES))
        .limit(1)
    )
    return session.scalars(query).first() is not None


def cancel_unneeded_children(session: Session, parent_id: str) -> bool:
    """Cancel the jobs that a job enqueued and that no other live job needs, and theirs. True if there were any.

    A child that a user asked for too has no parent any more (`JobRepository.enqueue`), so it goes on.
    """
    found = False
    # A child may be needed by other children alone, which the round before has cancelled.
    while children := _unneeded_children(session, parent_id):
        found = True
        of_children = Job.id.in_(children)
        queued = update(Job).where(of_children, Job.state == JobState.QUEUED)
        queued = queued.values(state=JobState.CANCELLED, cancel_requested=True, finished_at=database_now())
        session.execute(queued.execution_options(**_UNSYNCHRONIZED))
        running = update(Job).where(of_children, Job.state == JobState.RUNNING).values(cancel_requested=True)
        session.execute(running.execution_options(**_UNSYNCHRONIZED))
        for child in children:
            cancel_unneeded_children(session, child)
    return found


def _unneeded_children(session: Session, parent_id: str) -> list[str]:
    other, dependent = aliased(JobDependency), aliased(Job)
    needed = exists(
        select(other.job_id)
        .join(dependent, dependent.id == other.job_id)
        .where(
            other.needs_id == Job.id,
            other.job_id != parent_id,
            dependent.state.in_(LIVE_STATES),
            dependent.cancel_requested.is_(False),
        )
    )
    of_parent = (Job.parent_id == parent_id, Job.state.in_(LIVE_STATES), Job.cancel_requested.is_(False))
    return list(session.scalars(select(Job.id).where(*of_parent, ~needed)))
