"""`/v1/runs/{run}/event-log`. The stream of changes, `/v1/runs/{run}/events`, is in `events`."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.schema_base import CursorParameter, Limit, Page, RunRef
from phema.services.api.run_events import service
from phema.services.api.run_events.schemas import RunEvent

router = APIRouter(tags=["runs"])


@router.get("/v1/runs/{run}/event-log", summary="What happened to a run")
def list_run_events(
    run: RunRef, services: ServicesDep, limit: Limit = 100, cursor: CursorParameter = None
) -> Page[RunEvent]:
    """Every recorded change of a run, oldest first: when, what and why. Earlier versions of phema recorded none."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run, cursor=cursor, limit=limit)
