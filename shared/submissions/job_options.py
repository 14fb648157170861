"""Options of the job that a submitted request enqueues."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import Transaction


@dataclass(frozen=True)
class JobOptions:
    max_attempts: int
    parent_id: str | None = None
    """The job that needs the result, whose cancellation cancels the new job too; None when a user asked."""
    priority: int | None = None
    """None for the default of the kind of job."""
    needs: tuple[str, ...] = ()
    """Ids of jobs that must have ended before the new job may be claimed."""


def keep_live_job(tx: Transaction, job: catalog.Job | None, options: JobOptions) -> None:
    """A request found a result that a live job computes already: others than the job's parent want it too."""
    if job is not None and not job.state.terminal:
        tx.jobs.share(job.id, options.parent_id)
