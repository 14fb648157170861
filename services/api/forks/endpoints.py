"""`/v1/runs/{run}/forks`: start a run from what another has learned."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from phema.services.api.forks import service
from phema.services.api.forks.schemas import ForkCreate
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import EndpointResult, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import NameTaken, NotFinished
from phema.services.api.http.schema_base import Page, RunRef
from phema.services.api.runs.schemas import Run

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/runs/{run}/forks",
    status_code=201,
    response_model=Run,
    summary="Fork a run",
    responses=problem_responses(NameTaken, NotFinished),
)
def fork_run(run: RunRef, body: ForkCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Start a new run from a checkpoint or a reconstruction of another, with changed settings, for fine-tuning.

    The object that the fork begins from is kept until the fork has a checkpoint of its own.
    """
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: EndpointResult(201, service.fork(tx, run, body, max_attempts=attempts)))


@router.get("/v1/runs/{run}/forks", summary="Forks of a run")
def list_forks(run: RunRef, services: ServicesDep) -> Page[Run]:
    """The runs that began from this one, oldest first."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.forks(tx, run)
