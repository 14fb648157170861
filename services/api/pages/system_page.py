"""`/system`: the parts of the deployment, the queue, and what every run stores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import MAX_COUNT, NAME
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.filters import Optional
from phema.services.api.retention import service as retention
from phema.services.api.retention.schemas import RetentionCreate
from phema.services.api.system import service

router = APIRouter()


POLICIES = {
    "thin": "keep fewer of the older ones",
    "basis": "keep those that no finished basis replaces",
    "latest": "keep the latest few times",
    "all": "keep every snapshot",
}


@router.get("/system/retention")
async def retention_dry_run(
    request: Request,
    pages: PagesDep,
    run: Annotated[str, Query(max_length=100, pattern=NAME)],
    policy: Annotated[Literal["all", "thin", "basis", "latest"], Query()] = "thin",
    coarsest: Annotated[Optional[Annotated[int, Field(ge=1, le=MAX_COUNT)]], Query()] = None,
    keep: Annotated[Optional[Annotated[int, Field(ge=1, le=MAX_COUNT)]], Query()] = None,
) -> HTMLResponse:
    """What a policy would free in a run, and the error of every EMA length before and after."""
    asked: dict[str, Any] = {"policy": policy}
    if policy == "thin" and coarsest is not None:
        asked["coarsest"] = coarsest
    if policy == "latest":
        asked["keep"] = keep or 10
    body = RetentionCreate.model_validate(asked)
    catalog = pages.services.catalog
    found = await pages.services.planning.run(lambda: retention.consider(catalog, run, body).document(body))
    words = [word for name, value in asked.items() if name != "policy" for word in (f"--{name}", str(value))]
    fields = ", ".join([f"{name}={value!r}" for name, value in asked.items() if name != "policy"])
    return pages.render(
        request,
        "retention.html",
        run=run,
        found=found,
        asked=asked,
        policies=POLICIES,
        same_by=[
            pages.equivalent(
                request,
                "This dry run",
                f"/v1/runs/{run}/retention",
                f"client.retain({run!r}, {policy!r}{', ' if fields else ''}{fields})",
                ["retain", run, "--policy", policy, *words],
                {**asked, "dry_run": True},
            )
        ],
    )


@router.get("/system")
def system(request: Request, pages: PagesDep) -> HTMLResponse:
    """Checks, queue and storage."""
    found = service.look(pages.services)
    return pages.render(
        request,
        "system.html",
        system=found,
        total=sum(one.size for one in found.storage),
        same_by=[
            pages.equivalent(request, "This page", "/v1/system", "client.system()", ["doctor"]),
        ],
    )
