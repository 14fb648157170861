"""`/studies`, `/sweeps/{sweep}` and `/searches/{search}`: many evaluations, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from phema.services.api.http.problems import NotFinished
from phema.services.api.http.schema_base import Id
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.filters import RunFilter, with_query
from phema.services.api.pages.rendering.run_names import run_names
from phema.services.api.searches import service as searches
from phema.services.api.searches.schemas import SearchDetail
from phema.services.api.sweeps import service as sweeps
from phema.shared.analyses.analysis import figure_title
from phema.shared.metrics.registry import FIGURES, ranking_figure

router = APIRouter()
PAGE = 30
_PICTURE = {"Cache-Control": "no-cache, private", "X-Content-Type-Options": "nosniff"}


@router.get("/studies")
def studies(request: Request, pages: PagesDep, run: RunFilter = None) -> HTMLResponse:
    """The newest sweeps and searches."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found_sweeps = sweeps.page(tx, run=run, cursor=None, limit=PAGE).items
        found_searches = searches.page(tx, run=run, cursor=None, limit=PAGE).items
        of_sweeps = [one.run_id for one in found_sweeps]
        names = run_names(tx, [*of_sweeps, *(one.run_id for one in found_searches)])
    words = [run] if run else []
    argument = f"run={run!r}" if run else ""
    return pages.render(
        request,
        "studies.html",
        sweeps=found_sweeps,
        searches=found_searches,
        names=names,
        run=run,
        most=PAGE,
        same_by=[
            pages.equivalent(
                request,
                f"These {kind}",
                with_query(f"/v1/{kind}", {"run": run}),
                f"client.{kind}.list({argument})",
                [kind, *words],
            )
            for kind in ("sweeps", "searches")
        ],
    )


@router.get("/sweeps/{sweep_id}")
def sweep(sweep_id: Id, request: Request, pages: PagesDep) -> HTMLResponse:
    """One sweep with its points so far, the best first."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = sweeps.detail(tx, sweep_id)
        names = run_names(tx, [found.run_id])
    last = float("inf")
    points = sorted(found.points, key=lambda one: (one.number != found.best, one.difference or last, one.number))
    varied = [name for name in _AXES if len({str(one.recipe.get(name)) for one in found.points}) > 1]
    return pages.render(
        request,
        "sweep.html",
        sweep=found,
        points=points,
        varied=varied,
        run=names[found.run_id],
        same_by=[
            pages.equivalent(request, "This sweep", f"/v1/sweeps/{sweep_id}", f"client.sweeps.get({sweep_id!r})", None)
        ],
    )


_AXES = ("guidance", "guidance_interval", "num_steps", "churn", "seed", "num_samples")
"""Fields of the recipe that a sweep can vary."""


@router.get("/searches/{search_id}")
def search(search_id: Id, request: Request, pages: PagesDep) -> HTMLResponse:
    """One search: its answer, the model of the figure, and the points in the order in which they were chosen."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = searches.detail(tx, search_id)
        names = run_names(tx, [found.run_id])
    figures = next((one.figures for one in found.points if one.figures), None)
    return pages.render(
        request,
        "search.html",
        search=found,
        figure=found.result.figure if found.result else _ranking(figures),
        drawable=_curve(found) is not None,
        run=names[found.run_id],
        same_by=[
            pages.equivalent(
                request, "This search", f"/v1/searches/{search_id}", f"client.searches.get({search_id!r})", None
            )
        ],
    )


@router.get("/searches/{search_id}/model.svg")
def search_picture(search_id: Id, pages: PagesDep, dark: Annotated[bool, Query()] = False) -> Response:
    """The model of the figure over the EMA length, with the interval of the optimum."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = searches.detail(tx, search_id)
    curve = _curve(found)
    if curve is None or found.result is None:
        raise NotFinished(f"search {search_id} has no answer over the EMA length alone")
    from phema.shared.pictures.measured import FigureName, Measured
    from phema.shared.pictures.search_model import search_model
    from phema.shared.pictures.theme import DARK, LIGHT

    result = found.result
    named = FIGURES[result.figure]
    svg = search_model(
        curve,
        result.point["sigma_rel"],
        result.interval["sigma_rel"],
        Measured(result.value, result.standard_error),
        FigureName(figure_title(named.name), named.better),
        theme=DARK if dark else LIGHT,
        format="svg",
    )
    return Response(svg, media_type="image/svg+xml", headers=_PICTURE)


def _ranking(figures: Mapping[str, float | None] | None) -> str | None:
    figure = ranking_figure(figures) if figures else None
    return figure.name if figure is not None else None


def _curve(found: SearchDetail) -> list[tuple[float, float, float]] | None:
    """The model as (σ_rel, value, standard deviation); None without an answer over the EMA length alone."""
    if found.result is None or set(found.result.point) != {"sigma_rel"}:
        return None
    return [(one.point["sigma_rel"], one.value, one.difference_error) for one in found.result.curve]
