"""Catalog rows of jobs as answers of the API."""

from __future__ import annotations

from phema.services.api.http.problems import DeletionRefused
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.schemas import Attempt, Job, JobDetail, RelatedJob
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction

MOST_RELATED = 500
"""Jobs in each list of a job's neighbours."""


def to_job(row: catalog.Job) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        run_id=row.run_id,
        parent_id=row.parent_id,
        request_id=row.request_id,
        priority=row.priority,
        progress=min(max(row.progress, 0.0), 1.0),
        message="; ".join(filter(None, (row.message, row.trouble))) or None,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested,
        pause_requested=row.pause_requested,
        result=row.result,
        error=row.error,
        cause=row.cause,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _attempt(row: catalog.Attempt) -> Attempt:
    return Attempt(
        number=row.number,
        submission_id=row.submission_id,
        owner=row.owner,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error=row.error,
        cause=row.cause,
    )


def detail(tx: Transaction, job_id: str) -> JobDetail:
    """Raises catalog.NotFound."""
    row = tx.jobs.get(job_id)
    history = [_attempt(attempt) for attempt in tx.jobs.attempts(job_id)]
    needs, needed_by = tx.jobs.related(job_id, MOST_RELATED)
    return JobDetail(
        **dict(to_job(row)),
        attempt_history=history,
        needs=list(map(_related, needs)),
        needed_by=list(map(_related, needed_by)),
    )


def _related(row: catalog.Job) -> RelatedJob:
    return RelatedJob(id=row.id, kind=row.kind, state=row.state, run_id=row.run_id)


def cancel(tx: Transaction, job_id: str, *, tree: bool) -> Job:
    """With `tree`, also the jobs that need it. Raises catalog.NotFound, DeletionRefused."""
    row = tx.jobs.get(job_id)
    if row.kind is JobKind.DELETE and not row.state.terminal:
        raise DeletionRefused(f"job {job_id} deletes run {row.run_id}; to keep the run, restore it")
    return to_job(tx.jobs.cancel_tree(job_id) if tree else tx.jobs.request_cancel(job_id))


def page(
    tx: Transaction,
    *,
    kind: JobKind | None,
    state: JobState | None,
    run: str | None,
    parent: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Job]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    run_id = run_id_of(tx, run)
    found = tx.jobs.list(kind=kind, state=state, run_id=run_id, parent_id=parent, after=cursor, limit=limit)
    return Page(items=[to_job(row) for row in found.items], next_cursor=found.next_cursor)
