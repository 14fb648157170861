"""`/v1/runs/{run}/pause` and `/extend`. `/cancel` and `/resume` are in `runs`, because external runs have them too."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import EndpointResult, IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Conflict
from phema.services.api.http.schema_base import RunRef
from phema.services.api.run_control import service
from phema.services.api.run_control.schemas import Extension
from phema.services.api.runs.schemas import Run

router = APIRouter(tags=["runs"])


@router.post("/v1/runs/{run}/pause", summary="Pause a run", responses=problem_responses(Conflict))
def pause_run(run: RunRef, services: ServicesDep) -> Run:
    """Stop training after the next step and a checkpoint, and free the run's CPUs and GPUs until it is resumed.

    A queued run is paused at once; a paused run does not change. An ended or external run cannot be paused.
    """
    with services.catalog.transaction() as tx:
        return service.pause(tx, run)


@router.post("/v1/runs/{run}/extend", response_model=Run, summary="Extend a run", responses=problem_responses(Conflict))
def extend_run(run: RunRef, body: Extension, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Give a run a longer training.

    A succeeded run is queued again and goes on from the checkpoint at its end. A queued, paused, failed or cancelled
    run only gets the new length. A running one must be paused first. The weights are those that a run of the new length
    has: the learning rate does not depend on the length.
    """
    attempts = services.settings.max_attempts
    return idempotency.run(body, lambda tx: EndpointResult(200, service.extend(tx, run, body, max_attempts=attempts)))
