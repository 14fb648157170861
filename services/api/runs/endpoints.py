"""`/v1/runs`: start, list, look at, cancel and resume training runs; their history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import EndpointResult, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NameTaken
from phema.services.api.http.schema_base import (
    MAX_COUNT,
    CursorParameter,
    Limit,
    Page,
    RequestModel,
    RunRef,
    StateQuery,
)
from phema.services.api.runs import service
from phema.services.api.runs.schemas import HistoryRow, Run, RunCreate

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/runs",
    status_code=201,
    response_model=Run,
    summary="Start a training run",
    responses=problem_responses(NameTaken),
)
def create_run(body: RunCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Check the complete configuration, freeze it, and queue the training."""
    if (given := idempotency.saved_response(body)) is not None:
        return given
    config = service.configure(body)
    attempts = services.settings.max_attempts
    return idempotency.run(
        body, lambda tx: EndpointResult(201, service.create(tx, body, config, max_attempts=attempts))
    )


@router.get("/v1/runs", summary="List runs")
def list_runs(
    services: ServicesDep, state: StateQuery = None, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Run]:
    """Runs, newest first."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, state=state, cursor=cursor, limit=limit)


@router.get("/v1/runs/{run:run}", summary="One run")
def get_run(run: RunRef, services: ServicesDep) -> Run:
    """A run by id or name, with its configuration and progress."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_run(tx.runs.get(run))


@router.post("/v1/runs/{run}/cancel", summary="Cancel a run")
def cancel_run(run: RunRef, services: ServicesDep) -> Run:
    """Stop training. What is stored stays. A queued run is cancelled at once; a finished run does not change."""
    with services.catalog.transaction() as tx:
        return service.cancel(tx, run)


@router.post(
    "/v1/runs/{run}/resume",
    response_model=Run,
    summary="Resume a run",
)
def resume_run(run: RunRef, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Continue a failed or cancelled run from its latest checkpoint, with a new job. Other runs do not change.

    A run of another training loop is opened for snapshots again, in whatever state it ended.
    """
    attempts = services.settings.max_attempts
    return idempotency.run(
        RequestModel(), lambda tx: EndpointResult(200, service.resume(tx, run, max_attempts=attempts))
    )


@router.get("/v1/runs/{run}/metrics", summary="A run's history")
def list_run_metrics(
    run: RunRef,
    services: ServicesDep,
    after: Annotated[
        int | None,
        Query(ge=0, le=MAX_COUNT, description="Only rows after this number of images; `cursor` takes precedence."),
    ] = None,
    limit: Limit = 100,
    cursor: CursorParameter = None,
) -> Page[HistoryRow]:
    """Loss, learning rate, throughput and magnitudes, in order of time. To follow a run, pass the last `num_images` as
    `after`."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.history(tx, run, after=after, cursor=cursor, limit=limit)
