"""Jobs as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp
from phema.shared.catalog import JobKind, JobState


class Job(ResponseModel):
    """A durable unit of work in the queue."""

    id: str
    kind: JobKind
    state: JobState
    run_id: str | None
    request_id: str | None = Field(description="Id of the request that created the job; the job's log lines carry it.")
    priority: int = Field(description="Jobs with a lower number are claimed first.")
    progress: float = Field(ge=0, le=1, description="Share of the work that is done.")
    message: str | None = Field(description="What the job is doing now.")
    attempts: int = Field(description="Attempts since the last stored progress.")
    max_attempts: int = Field(description="The job fails for good when `attempts` reaches this number.")
    cancel_requested: bool
    result: dict[str, Any] | None
    error: str | None = Field(description="Why the job, or its last attempt, failed.")
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


class JobDetail(Job):
    """A job with all its attempts."""

    attempt_history: list[Attempt]
