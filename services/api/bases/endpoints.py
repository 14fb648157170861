"""`/v1/runs/{run}/bases`, `/v1/bases`: compact the snapshots of a run into a few vectors."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from phema.services.api.bases import schemas, service
from phema.services.api.http.dependencies import Services, ServicesDep
from phema.services.api.http.idempotency import Idempotency, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Busy, NoSnapshots, SnapshotsGone
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunRef
from phema.shared.submissions.stored_inputs import load_stored_inputs

router = APIRouter(tags=["storage"])


@router.post(
    "/v1/runs/{run}/bases",
    status_code=202,
    response_model=schemas.BasisAccepted,
    summary="Compact to a basis",
    responses={
        200: {
            "model": schemas.BasisPlan | schemas.BasisAccepted,
            "description": "With `plan_only`, the plan. Otherwise a finished basis that covers the request.",
        },
        **problem_responses(NoSnapshots, SnapshotsGone, Busy),
    },
)
async def create_basis(
    run: RunRef, body: schemas.BasisCreate, services: ServicesDep, idempotency: IdempotencyDep
) -> Response:
    """Queue a job that writes the vectors of a basis. Afterwards, any EMA length in its range and at its time costs one
    pass over the vectors, independent of the number of snapshots. With `plan_only`, return the plan and do nothing."""
    return await services.planning.run(partial(_create_basis, run, body, services, idempotency))


def _create_basis(run: str, body: schemas.BasisCreate, services: Services, idempotency: Idempotency) -> Response:
    if not body.plan_only and (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run)
    # Solved outside any transaction: on SQLite, an open transaction makes every writer wait.
    planned = service.plan(inputs, body)
    if body.plan_only:
        return JSONResponse(service.to_plan(inputs, planned).model_dump(mode="json"))
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, inputs.run.id, planned, max_attempts=attempts))


@router.get("/v1/runs/{run}/bases", summary="List a run's bases")
def list_bases(
    run: RunRef, services: ServicesDep, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[schemas.Basis]:
    """Bases of a run, newest first."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run, cursor=cursor, limit=limit)


@router.get("/v1/bases/{basis_id}", summary="One basis")
def get_basis(basis_id: Id, services: ServicesDep) -> schemas.Basis:
    """A basis with its state."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_basis(tx.bases.get(basis_id))
