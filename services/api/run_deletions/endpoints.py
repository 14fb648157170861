"""`DELETE /v1/runs/{run}` and `POST /v1/runs/{run}/restore`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import DeletionRefused
from phema.services.api.http.schema_base import RunRef
from phema.services.api.run_deletions import service
from phema.services.api.run_deletions.schemas import DryRun, GraceHours, Models, RunDeletion
from phema.services.api.runs.schemas import Run

router = APIRouter(tags=["runs"])


@router.delete(
    "/v1/runs/{run:run}",
    status_code=202,
    response_model=RunDeletion,
    summary="Delete a run",
    responses={
        200: {"model": RunDeletion, "description": "With `dry_run`, what would be deleted."},
        **problem_responses(DeletionRefused),
    },
)
def delete_run(
    run: RunRef, services: ServicesDep, dry_run: DryRun = False, grace_hours: GraceHours = None, models: Models = False
) -> Response:
    """Delete a run with everything that was made of it, after a time in which it can be restored.

    Its unfinished jobs are cancelled at once, and it takes no new work. A run that is starting or running is refused:
    cancel it first. So is a run that a promoted model, a fork without a checkpoint of its own or an unfinished job of
    another run needs.
    """
    found = service.delete(services, run, dry_run=dry_run, grace_hours=grace_hours, models=models)
    return JSONResponse(found.model_dump(mode="json"), 200 if dry_run else 202)


@router.post("/v1/runs/{run}/restore", summary="Keep a run", responses=problem_responses(DeletionRefused))
def restore_run(run: RunRef, services: ServicesDep) -> Run:
    """Withdraw a deletion that has not begun. Cancelled jobs stay cancelled: resume the run to train on."""
    return service.restore(services, run)
