"""`/runs/{run}/deletion`: what the deletion of a run would delete, and the buttons that ask for it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import RunRef
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.run_deletions import service
from phema.services.api.runs.service import to_run

router = APIRouter()


@router.get("/runs/{run}/deletion")
def deletion_page(run: RunRef, request: Request, pages: PagesDep) -> HTMLResponse:
    """The dry run. Lists the objects of the run."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = to_run(tx.runs.get(run))
    plan = service.delete(pages.services, found.id, dry_run=True, grace_hours=None, models=False)
    hours = pages.services.settings.delete_grace_hours
    return pages.render(request, "run_deletion.html", run=found, plan=plan, grace_hours=hours, same_by=[])
