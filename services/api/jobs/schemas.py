"""Jobs as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp
from phema.shared.catalog import FailureCause, JobKind, JobState


class Job(ResponseModel):
    """A durable unit of work in the queue."""

    id: str
    kind: JobKind
    state: JobState
    run_id: str | None
    parent_id: str | None = Field(
        description="Job that enqueued this one, and whose cancellation cancels it; null if a user asked for it."
    )
    request_id: str | None = Field(description="Id of the request that created the job; the job's log lines carry it.")
    priority: int = Field(description="Jobs with a lower number are claimed first.")
    progress: float = Field(ge=0, le=1, description="Share of the work that is done.")
    message: str | None = Field(description="What the job is doing now.")
    attempts: int = Field(description="Attempts since the last stored progress.")
    max_attempts: int = Field(description="The job fails for good when `attempts` reaches this number.")
    cancel_requested: bool
    pause_requested: bool = Field(description="Whether the run of the job stops after its next step and a checkpoint.")
    result: dict[str, Any] | None
    error: str | None = Field(description="Why the job, or its last attempt, failed.")
    cause: FailureCause | None = Field(description="Kind of the failure that `error` describes; null if unknown.")
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None


class Attempt(ResponseModel):
    """One claim of a job by one process."""

    number: int
    submission_id: str = Field(description="Id of the attempt in Ray.")
    owner: str
    started_at: Timestamp
    ended_at: Timestamp | None
    outcome: str | None
    error: str | None
    cause: FailureCause | None = Field(description="Kind of the failure that `error` describes; null if unknown.")


class RelatedJob(ResponseModel):
    """A job that another needs, or that needs another."""

    id: str
    kind: JobKind
    state: JobState
    run_id: str | None


class JobDetail(Job):
    """A job with all its attempts, and its place in the tree of jobs."""

    attempt_history: list[Attempt]
    needs: list[RelatedJob] = Field(description="Jobs that must end before this one goes on. At most 500.")
    needed_by: list[RelatedJob] = Field(description="Jobs that wait for this one, or have waited. At most 500.")
