"""`/v1/jobs`: list, look at and cancel jobs; logs of their attempts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import DeletionRefused
from phema.services.api.http.schema_base import (
    MAX_COUNT,
    CursorParameter,
    Id,
    KindQuery,
    Limit,
    Page,
    ParentQuery,
    RunQuery,
    StateQuery,
)
from phema.services.api.jobs import logs, service
from phema.services.api.jobs.schemas import Job, JobDetail

Tree = Annotated[bool, Query(description="Also cancel the jobs that need this one, and those that need them.")]

router = APIRouter(tags=["jobs"])

_LOGS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The lines of the driver and its workers.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@router.get("/v1/jobs", summary="List jobs")
def list_jobs(
    services: ServicesDep,
    kind: KindQuery = None,
    state: StateQuery = None,
    run: RunQuery = None,
    parent: ParentQuery = None,
    limit: Limit = 50,
    cursor: CursorParameter = None,
) -> Page[Job]:
    """Jobs, newest first. `kind`, `state`, `run` and `parent` filter them.

    The parts of evaluations (kind `draw`) are left out unless `kind` or `parent` asks for them.
    """
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, kind=kind, state=state, run=run, parent=parent, cursor=cursor, limit=limit)


@router.get("/v1/jobs/{job_id}", summary="One job")
def get_job(job_id: Id, services: ServicesDep) -> JobDetail:
    """A job with its progress and all its attempts."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.detail(tx, job_id)


@router.get(
    "/v1/jobs/{job_id}/logs",
    summary="Log of an attempt",
    response_class=StreamingResponse,
    responses=_LOGS,
)
def get_job_log(
    job_id: Id,
    services: ServicesDep,
    request: Request,
    attempt: Annotated[
        int | None, Query(ge=1, le=MAX_COUNT, description="Number of the attempt; by default the latest.")
    ] = None,
    follow: Annotated[
        bool, Query(description="Send new lines as they are stored, until the attempt has ended and its log is whole.")
    ] = False,
) -> StreamingResponse:
    """What an attempt at a training has written, as text: at most the last 16 MiB. Other jobs have no logs.

    The trainer stores new lines every 3 seconds while the attempt runs, and the whole log after its end. The lines pass
    through the API from a local store and from S3.
    """
    with services.catalog.transaction(read_only=True) as tx:
        found = logs.find_attempt(tx, job_id, attempt)
    logs.check_stored(logs.log_of(services, found), found, follow=follow)
    return StreamingResponse(
        logs.stream(services, request, found, follow=follow),
        media_type="text/plain",
        # Proxies such as nginx would hold back the lines of a log that is followed.
        headers={"X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
    )


@router.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job", responses=problem_responses(DeletionRefused))
def cancel_job(job_id: Id, services: ServicesDep, tree: Tree = False) -> Job:
    """A queued job is cancelled at once, a running job when its worker next checks. A finished job does not change.

    Jobs that it enqueued, and that nothing else needs, are cancelled with it. Jobs that need it go on without it, and
    most of them fail; with `tree`, they are cancelled too.
    """
    with services.catalog.transaction() as tx:
        return service.cancel(tx, job_id, tree=tree)
