"""`/` and `/runs`: all runs; `/runs/new`: a form that starts one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from phema.services.api.http.schema_base import CursorParameter
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.equivalents import Equivalent
from phema.services.api.pages.rendering.filters import with_query
from phema.services.api.pages.rendering.page import Pages
from phema.services.api.pages.runs.sparkline import Sparkline, sparkline
from phema.services.api.runs import service
from phema.services.api.runs.overview import RunOverview, overviews
from phema.services.api.runs.run_list import Origin, RunList, RunListDep
from phema.services.api.runs.schemas import Run
from phema.shared.catalog import Order, RunSort, RunState
from phema.shared.catalog.repositories.run_lists import natural_order
from phema.shared.recipes.presets import PRESETS

router = APIRouter()
PAGE = 50
SORTED = {
    "Run": RunSort.NAME,
    "Progress": RunSort.PROGRESS,
    "Images": RunSort.IMAGES,
    "Created": RunSort.CREATED,
}
"""Heading of a column -> what a click sorts by."""
FIRST_RUN = {"name": "digits", "preset": "digits-tiny"}
"""What the button of an empty service starts."""


@dataclass(frozen=True)
class Row:
    run: Run
    overview: RunOverview
    spark: Sparkline | None


@dataclass(frozen=True)
class Heading:
    """A column that sorts the list. `direction` is None unless the list is sorted by it."""

    title: str
    address: str
    direction: str | None


@router.get("/")
def home() -> Response:
    return RedirectResponse("./runs", 303)


@router.get("/runs")
def runs(request: Request, pages: PagesDep, listed: RunListDep, cursor: CursorParameter = None) -> HTMLResponse:
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.page(tx, listed, cursor=cursor, limit=PAGE)
        beside = overviews(tx, found.items)
    rows = [_row(run, beside[run.id]) for run in found.items]
    query = listed.query
    return pages.render(
        request,
        "runs.html",
        rows=rows,
        query=query,
        filtered=bool(query.keys() - {"sort", "order"}),
        headings={title: _heading(listed, title, sort) for title, sort in SORTED.items()},
        next_address=with_query("runs", query | {"cursor": found.next_cursor}) if found.next_cursor else None,
        first_address=with_query("runs", query) if cursor else None,
        states=list(RunState),
        origins=list(Origin),
        presets=list(PRESETS),
        first_run=FIRST_RUN,
        same_by=[_these(request, pages, query), _create(request, pages)],
    )


@router.get("/runs/new")
def new_run(request: Request, pages: PagesDep, preset: str = "digits-tiny") -> HTMLResponse:
    chosen = preset if preset in PRESETS else "digits-tiny"
    presets = {name: one.summary for name, one in PRESETS.items()}
    return pages.render(request, "new_run.html", presets=presets, chosen=chosen, same_by=[_create(request, pages)])


def _row(run: Run, overview: RunOverview) -> Row:
    return Row(run, overview, sparkline(overview.loss, run.total_images, "loss"))


def _heading(listed: RunList, title: str, sort: RunSort) -> Heading:
    order: Order = natural_order(sort)
    if sort is not listed.sort:
        return Heading(title, with_query("runs", replace(listed, sort=sort, order=None).query), None)
    current = listed.order or order
    other: Order = "asc" if current == "desc" else "desc"
    again = replace(listed, order=None if other == order else other)
    return Heading(title, with_query("runs", again.query), "ascending" if current == "asc" else "descending")


def _these(request: Request, pages: Pages, query: dict[str, str]) -> Equivalent:
    path = with_query("/v1/runs", query)
    arguments = ", ".join(f"{name}={value!r}" for name, value in query.items())
    options = [part for name, value in query.items() for part in (f"--{name}", value)]
    return pages.equivalent(request, "These runs", path, f"client.runs.list({arguments})", ["runs", "list", *options])


def _create(request: Request, pages: Pages) -> Equivalent:
    name, preset = FIRST_RUN["name"], FIRST_RUN["preset"]
    return pages.equivalent(
        request,
        "Start a run",
        "/v1/runs",
        f"client.runs.create({name!r}, {preset!r})",
        ["runs", "create", "--name", name, "--preset", preset],
        FIRST_RUN,
    )
