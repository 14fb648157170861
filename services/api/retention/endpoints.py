"""`/v1/runs/{run}/retention`, `/v1/runs/{run}/pins`: which snapshots a run keeps."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from phema.services.api.http.dependencies import Services, ServicesDep
from phema.services.api.http.idempotency import Idempotency, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Busy, RetentionRefused
from phema.services.api.http.schema_base import RunRef
from phema.services.api.retention import schemas, service

router = APIRouter(tags=["storage"])


@router.post(
    "/v1/runs/{run}/retention",
    status_code=202,
    response_model=schemas.Retention,
    summary="Apply a retention policy",
    responses={
        200: {
            "model": schemas.Retention,
            "description": "With `dry_run`, what the policy would free and cost. Otherwise nothing is left to delete.",
        },
        **problem_responses(RetentionRefused, Busy),
    },
)
async def retain(
    run: RunRef, body: schemas.RetentionCreate, services: ServicesDep, idempotency: IdempotencyDep
) -> Response:
    """Show what a policy would free, and the error of every EMA length before and after. With `dry_run` false, the
    snapshots are retired at once, and a job deletes them. Pinned snapshots always stay."""
    return await services.planning.run(partial(_retain, run, body, services, idempotency))


def _retain(run: str, body: schemas.RetentionCreate, services: Services, idempotency: Idempotency) -> Response:
    if not body.dry_run and (given := idempotency.saved_response(body)) is not None:
        return given
    found = service.consider(services.catalog, run, body)
    if body.dry_run:
        return JSONResponse(found.document(body).model_dump(mode="json"))
    run_id, policy, forecasts = found.inputs.run.id, found.policy, found.forecasts
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.apply(tx, run_id, policy, body, forecasts, max_attempts=attempts))


@router.post("/v1/runs/{run}/pins", summary="Pin snapshots")
def pin_snapshots(run: RunRef, body: schemas.PinCreate, services: ServicesDep) -> schemas.Pinned:
    """Pin snapshots, so that every policy keeps them; with `pinned` false, remove the pins."""
    with services.catalog.transaction() as tx:
        return service.pin(tx, run, body)
