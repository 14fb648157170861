"""`/v1/sweeps`: evaluations over a grid."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Damaged, NoSnapshots
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunQuery
from phema.services.api.sweeps import service
from phema.services.api.sweeps.schemas import Sweep, SweepCreate, SweepDetail, SweepExtend
from phema.shared.submissions import sweeps
from phema.shared.submissions.tensor_patterns import check_patterns

router = APIRouter(tags=["sweeps"])


@router.post(
    "/v1/sweeps",
    status_code=202,
    response_model=Sweep,
    summary="Sweep over a grid",
    responses={
        200: {"model": Sweep, "description": "The same sweep was done before."},
        **problem_responses(NoSnapshots, Damaged),
    },
)
def create_sweep(body: SweepCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Evaluate every point of a grid. The weights are reconstructed as needed. Points that were computed before, for
    whatever request, are not computed again. Points that failed are tried again when the same sweep is requested."""
    if (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        prepared = sweeps.prepare(tx, body.run, body.spec)
    check_patterns(prepared.pattern_lists, services.store, prepared.snapshots)
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, prepared, max_attempts=attempts))


@router.get("/v1/sweeps", summary="List sweeps")
def list_sweeps(
    services: ServicesDep, run: RunQuery = None, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Sweep]:
    """Sweeps, newest first; `run` limits them to one run."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run=run, cursor=cursor, limit=limit)


@router.get("/v1/sweeps/{sweep_id}", summary="One sweep")
def get_sweep(sweep_id: Id, services: ServicesDep) -> SweepDetail:
    """A sweep with its points so far: figures, their standard errors, and the difference of each point to the best with
    the standard error of that difference."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.detail(tx, sweep_id)


@router.post(
    "/v1/sweeps/{sweep_id}/extend",
    status_code=202,
    response_model=Sweep,
    summary="Extend a sweep",
    responses={
        200: {"model": Sweep, "description": "The extended sweep was done before."},
        **problem_responses(NoSnapshots, Damaged),
    },
)
def extend_sweep(sweep_id: Id, body: SweepExtend, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Add values to the axes, or pictures to all points. The answer is a new sweep whose `extends` names this one. Its
    grid holds the points of both, and what was computed is not computed again. This sweep does not change."""
    if (given := idempotency.saved_response(body)) is not None:
        return given
    with services.catalog.transaction(read_only=True) as tx:
        prepared = service.prepare_extension(tx, sweep_id, body)
    check_patterns(prepared.pattern_lists, services.store, prepared.snapshots)
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: service.create(tx, prepared, max_attempts=attempts))
