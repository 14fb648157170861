"""`/v1/jobs`: list, look at and cancel jobs."""

from __future__ import annotations

from fastapi import APIRouter

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.schema_base import CursorParameter, Id, KindQuery, Limit, Page, RunQuery, StateQuery
from phema.services.api.jobs import service
from phema.services.api.jobs.schemas import Job, JobDetail

router = APIRouter(tags=["jobs"])


@router.get("/v1/jobs", summary="List jobs")
def list_jobs(
    services: ServicesDep,
    kind: KindQuery = None,
    state: StateQuery = None,
    run: RunQuery = None,
    limit: Limit = 50,
    cursor: CursorParameter = None,
) -> Page[Job]:
    """Jobs, newest first. `kind`, `state` and `run` filter them."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, kind=kind, state=state, run=run, cursor=cursor, limit=limit)


@router.get("/v1/jobs/{job_id}", summary="One job")
def get_job(job_id: Id, services: ServicesDep) -> JobDetail:
    """A job with its progress and all its attempts."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.detail(tx, job_id)


@router.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job")
def cancel_job(job_id: Id, services: ServicesDep) -> Job:
    """A queued job is cancelled at once, a running job when its worker next checks. A finished job does not change."""
    with services.catalog.transaction() as tx:
        return service.to_job(tx.jobs.request_cancel(job_id))
