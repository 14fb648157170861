"""Catalog rows of jobs as answers of the API."""

from __future__ import annotations

from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.schemas import Attempt, Job, JobDetail
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction


def to_job(row: catalog.Job) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        run_id=row.run_id,
        request_id=row.request_id,
        priority=row.priority,
        progress=min(max(row.progress, 0.0), 1.0),
        message="; ".join(filter(None, (row.message, row.trouble))) or None,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested,
        result=row.result,
        error=row.error,
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
    )


def detail(tx: Transaction, job_id: str) -> JobDetail:
    """Raises catalog.NotFound."""
    row = tx.jobs.get(job_id)
    history = [_attempt(attempt) for attempt in tx.jobs.attempts(job_id)]
    return JobDetail(**dict(to_job(row)), attempt_history=history)


def page(
    tx: Transaction, *, kind: JobKind | None, state: JobState | None, run: str | None, cursor: str | None, limit: int
) -> Page[Job]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.jobs.list(kind=kind, state=state, run_id=run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_job(row) for row in found.items], next_cursor=found.next_cursor)
