"""Deletions of runs as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job

DryRun = Annotated[bool, Query(description="Return what would be deleted and what stands against it; change nothing.")]
GraceHours = Annotated[
    float | None,
    Query(ge=0, le=87_600, description="Hours until the run is deleted; 0 deletes it now. Default: the setting."),
]
Models = Annotated[bool, Query(description="Also delete the models that were promoted from the run.")]


class ObjectsOfKind(ResponseModel):
    """Objects of one kind in the store."""

    kind: str = Field(
        description="`snapshots`, `checkpoints`, `reconstructions`, `bases`, `evaluations` (pictures and features), "
        "`samples`, `previews`, `models`, or `other`: the run's description, logs, and files that no row names."
    )
    objects: int
    bytes: int = Field(description="The grids of pictures of evaluations, whose sizes are not recorded, count as 0.")


class RunDeletion(ResponseModel):
    """What the deletion of a run deletes, and when."""

    run_id: str
    name: str
    dry_run: bool
    delete_at: Timestamp = Field(description="When the deletion begins. Until then the run can be restored.")
    stored: list[ObjectsOfKind]
    bytes: int = Field(description="Bytes of all these objects.")
    results: dict[str, int] = Field(description="Number of rows of each kind of result.")
    cancelled_jobs: list[Job] = Field(description="Unfinished jobs of the run, which the request cancels.")
    refused: list[str] = Field(
        description="What stands against the deletion, one sentence each; empty if nothing does."
    )
    job: Job | None = Field(description="The job that will delete the run; null for a dry run.")
