"""`/v1/evaluations`: figures and pictures of reconstructed weights."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from phema.services.api.evaluations import service
from phema.services.api.evaluations.schemas import Evaluation, EvaluationCreate
from phema.services.api.http import downloads
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Invalid, NotFinished
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunQuery

router = APIRouter(tags=["evaluations"])

ARCHIVE = {
    **downloads.file_responses("application/zip"),
    **problem_responses(NotFinished, Invalid),
}
PICTURES = {
    **downloads.file_responses("image/png"),
    **problem_responses(NotFinished),
}


@router.post(
    "/v1/evaluations",
    status_code=202,
    response_model=Evaluation,
    summary="Evaluate a reconstruction",
    responses={
        200: {"model": Evaluation, "description": "The reconstruction was evaluated with this recipe before."},
        **problem_responses(NotFinished),
    },
)
def create_evaluation(body: EvaluationCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Queue the sampling and scoring of a reconstruction. The same request gets the same evaluation.

    The evaluation of a reconstruction that is not finished yet waits for it, and fails if the reconstruction does.
    """
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, body, max_attempts=attempts))


@router.get("/v1/evaluations", summary="List evaluations")
def list_evaluations(
    services: ServicesDep, run: RunQuery = None, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Evaluation]:
    """Evaluations, newest first; `run` limits them to one run."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run=run, cursor=cursor, limit=limit)


@router.get("/v1/evaluations/{evaluation_id}", summary="One evaluation")
def get_evaluation(evaluation_id: Id, services: ServicesDep) -> Evaluation:
    """An evaluation; it has figures when its job is done."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_evaluation(tx.evaluations.get(evaluation_id))


@router.head("/v1/evaluations/{evaluation_id}/pictures", include_in_schema=False)
@router.get(
    "/v1/evaluations/{evaluation_id}/pictures",
    summary="Pictures of an evaluation",
    response_class=Response,
    responses=PICTURES,
)
def get_evaluation_pictures(evaluation_id: Id, request: Request, services: ServicesDep) -> Response:
    """A PNG grid of samples, one class per row when there are classes."""
    with services.catalog.transaction(read_only=True) as tx:
        key = service.pictures_key(tx, evaluation_id)
    download = service.pictures(services.store, evaluation_id, key)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)


@router.head("/v1/evaluations/{evaluation_id}/archive", include_in_schema=False)
@router.get(
    "/v1/evaluations/{evaluation_id}/archive",
    summary="All pictures of an evaluation",
    response_class=Response,
    responses=ARCHIVE,
)
def get_evaluation_archive(evaluation_id: Id, request: Request, services: ServicesDep) -> Response:
    """A zip file of PNG files, named by their seeds, with their classes in `dataset.json`: a dataset of its own.

    Only evaluations with `keep_pictures` have one.
    """
    with services.catalog.transaction(read_only=True) as tx:
        download = service.archive(tx, evaluation_id)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
