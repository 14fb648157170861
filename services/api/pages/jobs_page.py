"""`/jobs` and `/jobs/{job}`: the queue."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import CursorParameter, Id
from phema.services.api.jobs import service
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.filters import Optional, RunFilter, with_query
from phema.services.api.pages.rendering.run_names import run_names
from phema.shared.catalog import JobKind, JobState

router = APIRouter()
PAGE = 50


@router.get("/jobs")
def jobs(
    request: Request,
    pages: PagesDep,
    kind: Annotated[Optional[JobKind], Query()] = None,
    state: Annotated[Optional[JobState], Query()] = None,
    run: RunFilter = None,
    cursor: CursorParameter = None,
) -> HTMLResponse:
    """All jobs, newest first, filtered by kind, state and run."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.page(tx, kind=kind, state=state, run=run, parent=None, cursor=cursor, limit=PAGE)
        names = run_names(tx, [job.run_id for job in found.items])
    chosen = {"kind": kind, "state": state, "run": run}
    words = [word for name, value in chosen.items() if value for word in (f"--{name}", str(value))]
    arguments = ", ".join(f"{name}={str(value)!r}" for name, value in chosen.items() if value)
    return pages.render(
        request,
        "jobs.html",
        jobs=found.items,
        names=names,
        kinds=list(JobKind),
        states=list(JobState),
        chosen=chosen,
        older=with_query("jobs", chosen | {"cursor": found.next_cursor}) if found.next_cursor else None,
        same_by=[
            pages.equivalent(
                request,
                "These jobs",
                with_query("/v1/jobs", chosen),
                f"client.jobs.list({arguments})",
                ["jobs", "list", *words],
            )
        ],
    )


@router.get("/jobs/{job_id}")
def job(job_id: Id, request: Request, pages: PagesDep) -> HTMLResponse:
    """One job with its attempts, and the jobs that it enqueued."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.detail(tx, job_id)
        children = service.page(tx, kind=None, state=None, run=None, parent=job_id, cursor=None, limit=PAGE)
        names = run_names(tx, [found.run_id])
    return pages.render(
        request,
        "job.html",
        job=found,
        children=children.items,
        more_children=children.next_cursor is not None,
        names=names,
        same_by=[
            pages.equivalent(
                request, "This job", f"/v1/jobs/{job_id}", f"client.jobs.get({job_id!r})", ["jobs", "show", job_id]
            )
        ],
    )
