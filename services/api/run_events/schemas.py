"""Recorded events of runs as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp
from phema.shared.catalog import EventKind


class RunEvent(ResponseModel):
    """One recorded change of a run."""

    at: Timestamp
    kind: EventKind = Field(description="What happened; docs/life-cycle.md describes every kind.")
    reason: str | None = Field(description="Why, in one sentence.")
    details: dict[str, Any] | None = Field(
        description="Values before and after, ids of other runs, the cause of a failure; depends on `kind`."
    )
    job_id: str | None = Field(description="The run's job at that time.")
    attempt: int | None = Field(description="Number of the attempt that the event is about.")
