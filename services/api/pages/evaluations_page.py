"""`/evaluations` and `/evaluations/{evaluation}`: figures and pictures of networks."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from phema.services.api.evaluations import service
from phema.services.api.http.schema_base import CursorParameter, Id
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.filters import RunFilter, with_query
from phema.services.api.pages.rendering.run_names import run_names
from phema.services.api.reconstructions import service as reconstructions
from phema.shared.metrics.registry import ranking_figure

router = APIRouter()
PAGE = 30


@router.get("/evaluations")
def evaluations(
    request: Request, pages: PagesDep, run: RunFilter = None, cursor: CursorParameter = None
) -> HTMLResponse:
    """All evaluations, newest first, with their pictures."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.page(tx, run=run, cursor=cursor, limit=PAGE)
        names = run_names(tx, [one.run_id for one in found.items])
    ranking = {one.id: ranking_figure(one.figures) for one in found.items if one.figures}
    return pages.render(
        request,
        "evaluations.html",
        evaluations=found.items,
        ranking=ranking,
        names=names,
        run=run,
        older=with_query("evaluations", {"run": run, "cursor": found.next_cursor}) if found.next_cursor else None,
        same_by=[
            pages.equivalent(
                request,
                "These evaluations",
                with_query("/v1/evaluations", {"run": run}),
                f"client.evaluations.list({f'run={run!r}' if run else ''})",
                ["evaluations", *([run] if run else [])],
            )
        ],
    )


@router.get("/evaluations/{evaluation_id}")
def evaluation(evaluation_id: Id, request: Request, pages: PagesDep) -> HTMLResponse:
    """One evaluation: figures with their errors, pictures, recipe, and what decided the figures."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.to_evaluation(tx.evaluations.get(evaluation_id))
        weights = reconstructions.detail(tx, found.reconstruction_id)
        names = run_names(tx, [found.run_id])
    return pages.render(
        request,
        "evaluation.html",
        evaluation=found,
        weights=weights,
        run=names[found.run_id],
        recipe=found.recipe.model_dump(mode="json"),
        same_by=[
            pages.equivalent(
                request,
                "This evaluation",
                f"/v1/evaluations/{evaluation_id}",
                f"client.evaluations.get({evaluation_id!r})",
                None,
            )
        ],
    )
