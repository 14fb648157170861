"""`/v1/runs/{run}/previews`, `/v1/previews`: pictures of an average, without storing its weights."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from phema.services.api.http import downloads
from phema.services.api.http.dependencies import Services, ServicesDep
from phema.services.api.http.idempotency import Idempotency, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Busy, Damaged, NoSnapshots, NotFinished, SnapshotsGone
from phema.services.api.http.schema_base import Id, RunRef
from phema.services.api.previews import service
from phema.services.api.previews.schemas import Preview, PreviewCreate, PreviewPlan
from phema.shared.submissions import previews, reconstructions
from phema.shared.submissions.stored_inputs import load_stored_inputs
from phema.shared.submissions.tensor_patterns import check_patterns

router = APIRouter(tags=["previews"])

FILE = {
    **downloads.file_responses(service.MEDIA_TYPE),
    **problem_responses(NotFinished),
}


@router.post(
    "/v1/runs/{run}/previews",
    status_code=202,
    response_model=Preview,
    summary="Preview an average",
    responses={
        200: {
            "model": PreviewPlan | Preview,
            "description": "With `plan_only`, the plan. Otherwise these pictures were drawn before.",
        },
        **problem_responses(NoSnapshots, SnapshotsGone, NotFinished, Damaged, Busy),
    },
)
async def create_preview(
    run: RunRef, body: PreviewCreate, services: ServicesDep, idempotency: IdempotencyDep
) -> Response:
    """Draw pictures of an average that is combined in a worker's memory; only the pictures are stored. The job comes
    before all other work. The same request gets the same preview. Cancel the job of a preview that is no
    longer needed. The newest 500 previews of a run are kept."""
    return await services.planning.run(partial(_create_preview, run, body, services, idempotency))


def _create_preview(run: str, body: PreviewCreate, services: Services, idempotency: Idempotency) -> Response:
    if not body.plan_only and (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run, services.calibrations)
        work = previews.check(tx, inputs.run, body.sample)
        speeds = service.speeds(tx, inputs.run.id) if body.plan_only else None
    # Solved outside any transaction: on SQLite, an open transaction makes every writer wait.
    planned = reconstructions.plan(inputs, body.request)
    check_patterns(body.pattern_lists, services.store, planned.snapshots)
    if speeds is not None:
        return JSONResponse(service.to_preview_plan(planned, work, speeds).model_dump(mode="json"))
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, inputs.run.id, planned, body, max_attempts=attempts))


@router.get("/v1/previews/{preview_id}", summary="One preview")
def get_preview(preview_id: Id, services: ServicesDep) -> Preview:
    """A preview; its pictures exist when its job is done."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_preview(tx.previews.get(preview_id))


@router.head("/v1/previews/{preview_id}/download", include_in_schema=False)
@router.get(
    "/v1/previews/{preview_id}/download",
    summary="Pictures of a preview",
    response_class=Response,
    responses=FILE,
)
def download_preview(preview_id: Id, request: Request, services: ServicesDep) -> Response:
    """The PNG grid. It never changes, so that browsers may cache it. With S3, a redirect to a presigned URL."""
    with services.catalog.transaction(read_only=True) as tx:
        download = service.download(tx, preview_id)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
