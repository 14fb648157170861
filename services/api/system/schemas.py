"""The state of the deployment as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel
from phema.shared.catalog import JobKind


class SystemCheck(ResponseModel):
    """One thing that the deployment needs."""

    name: str
    state: Literal["ok", "warning", "wrong"]
    detail: str = Field(description="What was found, in one sentence.")
    mend: str = Field(description="What to do about a problem; empty when there is none.")


class QueuedKind(ResponseModel):
    """Unfinished jobs of one kind."""

    kind: JobKind
    queued: int
    running: int
    paused: int = Field(description="Jobs of paused runs.")
    oldest_queued_seconds: float | None = Field(description="Age of the oldest job that could be claimed.")


class StoredObjects(ResponseModel):
    count: int
    size: int = Field(description="Bytes.")


class RunStorage(ResponseModel):
    """What one run stores. Pictures and figures, which are small, are not counted."""

    run_id: str
    name: str
    snapshots: StoredObjects
    checkpoints: StoredObjects
    reconstructions: StoredObjects
    bases: StoredObjects
    size: int = Field(description="Bytes of all kinds together.")


class System(ResponseModel):
    """The deployment as the API sees it."""

    version: str
    catalog: str = Field(description="Address of the catalog, without its password.")
    store: str = Field(description="Address of the store.")
    checks: list[SystemCheck]
    queue: list[QueuedKind]
    storage: list[RunStorage] = Field(description="Of the 200 runs that store most, the largest first.")
