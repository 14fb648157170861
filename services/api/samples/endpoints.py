"""`/v1/samples`: pictures drawn from reconstructed weights without scoring them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from phema.services.api.http import downloads
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NotFinished
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunQuery
from phema.services.api.samples import service
from phema.services.api.samples.schemas import Sample, SampleCreate

router = APIRouter(tags=["samples"])

FILE = {
    **downloads.file_responses("application/octet-stream"),
    **problem_responses(NotFinished),
}


@router.post(
    "/v1/samples",
    status_code=202,
    response_model=Sample,
    summary="Draw pictures",
    responses={
        200: {"model": Sample, "description": "These pictures were drawn before."},
        **problem_responses(NotFinished),
    },
)
def create_sample(body: SampleCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Queue the drawing of pictures from a finished reconstruction. The same request gets the same sample."""
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, body, max_attempts=attempts))


@router.get("/v1/samples", summary="List samples")
def list_samples(
    services: ServicesDep, run: RunQuery = None, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Sample]:
    """Samples, newest first; `run` limits them to one run."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run=run, cursor=cursor, limit=limit)


@router.get("/v1/samples/{sample_id}", summary="One sample")
def get_sample(sample_id: Id, services: ServicesDep) -> Sample:
    """A sample; its file exists when its job is done."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_sample(tx.samples.get(sample_id))


@router.head("/v1/samples/{sample_id}/file", include_in_schema=False)
@router.get(
    "/v1/samples/{sample_id}/file",
    summary="Pictures of a sample",
    response_class=Response,
    responses=FILE,
)
def get_sample_file(sample_id: Id, request: Request, services: ServicesDep) -> Response:
    """The file: PNG, zip, NPY or NPZ as requested. With S3, a redirect to a presigned URL."""
    with services.catalog.transaction(read_only=True) as tx:
        download = service.file(tx, sample_id)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
