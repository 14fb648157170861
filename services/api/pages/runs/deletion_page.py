"""`/runs/{run}/deletion`: what the deletion of a run would delete, and the buttons that ask for it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import RunRef
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.equivalents import Equivalent, Method
from phema.services.api.pages.rendering.page import Pages
from phema.services.api.run_deletions import service
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run

router = APIRouter()


@router.get("/runs/{run}/deletion")
def deletion_page(run: RunRef, request: Request, pages: PagesDep) -> HTMLResponse:
    """The dry run. Lists the objects of the run."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = to_run(tx.runs.get(run))
    plan = service.delete(pages.services, found.id, dry_run=True, grace_hours=None, models=False)
    hours = pages.services.settings.delete_grace_hours
    same_by = _same_by(request, pages, found)
    return pages.render(request, "run_deletion.html", run=found, plan=plan, grace_hours=hours, same_by=same_by)


def _same_by(request: Request, pages: Pages, run: Run) -> list[Equivalent]:
    name, path = run.name, f"/v1/runs/{run.name}"

    def same(title: str, path: str, python: str, command: list[str], method: Method) -> Equivalent:
        return pages.equivalent(request, title, path, python, command, method=method)

    delete = ["runs", "delete", name]
    found = [
        same(
            "What would be deleted",
            f"{path}?dry_run=true",
            f"client.runs.delete({name!r}, dry_run=True)",
            [*delete, "--dry-run"],
            "DELETE",
        )
    ]
    if run.delete_at is not None:
        keep = f"client.runs.restore({name!r})"
        return [*found, same("Keep the run", f"{path}/restore", keep, ["runs", "restore", name], "POST")]
    now = f"client.runs.delete({name!r}, grace_hours=0)"
    return [
        *found,
        same("Delete it, with time to keep it", path, f"client.runs.delete({name!r})", delete, "DELETE"),
        same("Delete it now", f"{path}?grace_hours=0", now, [*delete, "--now"], "DELETE"),
    ]
