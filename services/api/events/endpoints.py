"""`/v1/events`: changes of jobs and runs as they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from phema.services.api.events.schemas import Change
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import RunQuery, RunRef

router = APIRouter(tags=["events"])

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream that does not end. Its events are `job`, `run` and `resync`; their data is JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def _queried(services: ServicesDep, run: RunQuery = None) -> str | None:
    with services.catalog.transaction(read_only=True) as tx:
        return run_id_of(tx, run)


def _named(services: ServicesDep, run: RunRef) -> str:
    with services.catalog.transaction(read_only=True) as tx:
        return tx.runs.get(run).id


@router.get("/v1/events", summary="Changes as they happen", response_class=EventSourceResponse, responses=_EVENTS)
async def follow_events(
    services: ServicesDep, run_id: Annotated[str | None, Depends(_queried)]
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `job` when a job is created, makes progress or ends, and `run` when a run has new history or
    snapshots. `run` limits them to one run. The first event is `resync`: read what you show, then follow the stream.
    Another `resync` follows whenever events were lost."""
    async for change in services.events.follow(run_id):
        yield _sent(change)


@router.get("/v1/runs/{run}/events", summary="Changes of a run", response_class=EventSourceResponse, responses=_EVENTS)
async def follow_run_events(
    services: ServicesDep, run_id: Annotated[str, Depends(_named)]
) -> AsyncIterator[ServerSentEvent]:
    """As `/v1/events?run=`, for a run by id or name."""
    async for change in services.events.follow(run_id):
        yield _sent(change)


def _sent(change: Change) -> ServerSentEvent:
    return ServerSentEvent(event=change.kind, data=change)
