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
)
from phema.services.api.run_plans.service import configure
from phema.services.api.runs import progress_curve, service
from phema.services.api.runs.run_list import RunListDep
from phema.services.api.runs.schemas import HistoryRow, ProgressCurve, Run, RunCreate

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/runs",
    status_code=201,
    response_model=Run,
    summary="Start a training run",
    responses=problem_responses(NameTaken),
)
def create_run(body: RunCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Check the complete configuration, freeze it, and queue the training.

    With `dataset`, the API reads the dataset, and the configuration is fitted to it or proposed for it.
    """
    if (given := idempotency.saved_response(body)) is not None:
        return given
    config = configure(body, services, name=body.name).config
    attempts = services.settings.max_attempts
    return idempotency.run(
        body, lambda tx: EndpointResult(201, service.create(tx, body, config, max_attempts=attempts))
    )


@router.get("/v1/runs", summary="List runs")
def list_runs(
    services: ServicesDep, listed: RunListDep, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Run]:
    """Runs, newest first unless `sort` says otherwise. A cursor continues a list with the same `sort` and `order`."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, listed, cursor=cursor, limit=limit)


@router.get("/v1/runs/{run:run}", summary="One run")
def get_run(run: RunRef, services: ServicesDep) -> Run:
    """A run by id or name, with its configuration and progress."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_run(tx.runs.get(run))


@router.post("/v1/runs/{run}/cancel", summary="Cancel a run")
def cancel_run(run: RunRef, services: ServicesDep) -> Run:
    """Stop training after the next step and a checkpoint. A queued or paused run is cancelled at once.

    What is stored stays. An ended run does not change.
    """
    with services.catalog.transaction() as tx:
        return service.cancel(tx, run)


@router.post(
    "/v1/runs/{run}/resume",
    response_model=Run,
    summary="Resume a run",
)
def resume_run(run: RunRef, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Continue a paused, failed or cancelled run from its latest checkpoint. Other runs do not change.

    A paused run keeps its job; a failed or cancelled one gets a new job. A pause that has no effect yet is withdrawn.

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


@router.get("/v1/runs/{run}/progress-curve", summary="A run's best figure over time")
def get_progress_curve(run: RunRef, services: ServicesDep) -> ProgressCurve:
    """The best figure and its EMA length at each time that the continuous evaluation of the run has scored."""
    with services.catalog.transaction(read_only=True) as tx:
        return progress_curve.progress_curve(tx, run)
