"""`/v1/runs/{run}/reconstructions`, `/v1/reconstructions`: any EMA length of a run, chosen after training."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from phema.services.api.http import downloads
from phema.services.api.http.dependencies import Services, ServicesDep
from phema.services.api.http.idempotency import Idempotency, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import (
    Busy,
    Damaged,
    NoSnapshots,
    NotFinished,
    SnapshotsGone,
)
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunRef
from phema.services.api.reconstructions import schemas, service
from phema.services.api.snapshots.service import MEDIA_TYPE
from phema.shared.submissions import reconstructions
from phema.shared.submissions.stored_inputs import load_stored_inputs
from phema.shared.submissions.tensor_patterns import check_patterns

router = APIRouter(tags=["reconstructions"])

FILE = {
    **downloads.file_responses(MEDIA_TYPE),
    **problem_responses(NotFinished),
}


@router.post(
    "/v1/runs/{run}/reconstructions",
    status_code=202,
    response_model=schemas.ReconstructionsAccepted,
    summary="Reconstruct averages",
    responses={
        200: {
            "model": schemas.Plan | schemas.ReconstructionsAccepted,
            "description": "With `plan_only`, the plan. Otherwise every requested output exists already.",
        },
        **problem_responses(NoSnapshots, SnapshotsGone, Damaged, Busy),
    },
)
async def create_reconstructions(
    run: RunRef, body: schemas.ReconstructionCreate, services: ServicesDep, idempotency: IdempotencyDep
) -> Response:
    """Plan from the stored snapshots, and queue one job for all outputs that do not exist yet. With `plan_only`, return
    the plan and do nothing. Where the fit is poor, `advice` says what would improve it."""
    return await services.planning.run(partial(_create_reconstructions, run, body, services, idempotency))


def _create_reconstructions(
    run: str, body: schemas.ReconstructionCreate, services: Services, idempotency: Idempotency
) -> Response:
    if not body.plan_only and (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run, services.calibrations)
        speed = service.bytes_per_second(tx) if body.plan_only else None
    # Solved outside any transaction: on SQLite, an open transaction makes every writer wait.
    planned = reconstructions.plan(inputs, body.request)
    check_patterns(body.pattern_lists, services.store, planned.snapshots)
    if body.plan_only:
        return JSONResponse(service.to_plan(planned, speed).model_dump(mode="json"))
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, inputs.run.id, planned, body, max_attempts=attempts))


@router.get(
    "/v1/runs/{run}/reconstructions",
    summary="List a run's reconstructions",
)
def list_reconstructions(
    run: RunRef, services: ServicesDep, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[schemas.Reconstruction]:
    """Reconstructions of a run, newest first."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run, cursor=cursor, limit=limit)


@router.get("/v1/reconstructions/{reconstruction_id}", summary="One reconstruction")
def get_reconstruction(reconstruction_id: Id, services: ServicesDep) -> schemas.ReconstructionDetail:
    """A reconstruction with its state and lineage."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.detail(tx, reconstruction_id)


@router.head("/v1/reconstructions/{reconstruction_id}/download", include_in_schema=False)
@router.get(
    "/v1/reconstructions/{reconstruction_id}/download",
    summary="Download a reconstruction",
    response_class=Response,
    responses=FILE,
)
def download_reconstruction(reconstruction_id: Id, request: Request, services: ServicesDep) -> Response:
    """The safetensors file. A local store sends it, with ranges; with S3, a redirect to a presigned URL."""
    with services.catalog.transaction(read_only=True) as tx:
        download = service.download(tx, reconstruction_id)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
