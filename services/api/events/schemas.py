"""Events as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel
from phema.services.api.jobs.schemas import Job

EventKind = Literal["job", "run", "resync"]


class RunChange(ResponseModel):
    """How far a run is."""

    run_id: str
    num_images: int = Field(description="Images seen so far.")
    history_at: int = Field(description="Time of the latest row of the history; 0 without one.")
    snapshot_at: int = Field(description="Time of the latest snapshot; 0 without one.")


class Change(ResponseModel):
    """One event of the stream; the stream names `kind` as the event's type and sends the rest as its data."""

    kind: EventKind = Field(
        description="`job`: a job was created, made progress or ended. `run`: a run has new history or snapshots. "
        "`resync`: read again what you show. It is the first event, and follows lost events."
    )
    run_id: str | None = Field(description="The run that the job or the change belongs to.")
    job: Job | None = Field(default=None, description="With kind `job`: the job as it is now.")
    run: RunChange | None = Field(default=None, description="With kind `run`.")
