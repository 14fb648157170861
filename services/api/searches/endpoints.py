"""`/v1/searches`: evaluations whose points a model chooses."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NoSnapshots
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunQuery
from phema.services.api.searches import service
from phema.services.api.searches.schemas import Search, SearchCreate, SearchDetail
from phema.shared.submissions import searches

router = APIRouter(tags=["searches"])


@router.post(
    "/v1/searches",
    status_code=202,
    response_model=Search,
    summary="Search for the best point",
    responses={
        200: {"model": Search, "description": "The same search was done before."},
        **problem_responses(NoSnapshots),
    },
)
def create_search(body: SearchCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Find the best EMA length, or EMA length and guidance, within a budget of pictures. A model of the figure chooses
    the points, step by step. Points that were computed before, for whatever request, are not computed again. Points
    that failed are tried again when the same search is requested."""
    if (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        prepared = searches.prepare(tx, body.run, body.spec)
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, prepared, max_attempts=attempts))


@router.get("/v1/searches", summary="List searches")
def list_searches(
    services: ServicesDep, run: RunQuery = None, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Search]:
    """Searches, newest first; `run` limits them to one run."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run=run, cursor=cursor, limit=limit)


@router.get("/v1/searches/{search_id}", summary="One search")
def get_search(search_id: Id, services: ServicesDep) -> SearchDetail:
    """A search with its points so far: the step that chose each, its figures and their standard errors."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.detail(tx, search_id)
