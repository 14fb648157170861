"""`/v1/reports`: one page about one or more runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse

from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.schema_base import NAME
from phema.services.api.reports import service

router = APIRouter(tags=["reports"])

_HEADERS = {
    # Names of runs are escaped. Should one slip through, the page still runs and loads nothing.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/v1/reports", response_class=HTMLResponse, summary="A report of runs")
def get_report(
    run: Annotated[
        list[Annotated[str, Query(max_length=100, pattern=NAME)]],
        Query(min_length=1, max_length=6, description="Name or id of a run; repeat it to compare runs."),
    ],
    services: ServicesDep,
) -> HTMLResponse:
    """One HTML file without scripts: EMA lengths with errors, grids from the same seeds, runs side by side, magnitudes.

    It shows what is in the catalog and starts no work.
    """
    from phema.shared.reports.report import report_page  # matplotlib, which most processes of the API never need

    with services.catalog.transaction(read_only=True) as tx:
        inputs = service.inputs(tx, run, services.store)
    return HTMLResponse(report_page(inputs), headers=_HEADERS)
