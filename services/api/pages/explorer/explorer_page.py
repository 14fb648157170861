"""`/runs/{run}/explorer`: any EMA length of a run at any stored time, with its profile, pictures and figures."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import RunRef
from phema.services.api.pages.explorer import explorer_data
from phema.services.api.pages.explorer.explorer_query import PICTURES, SLIDER, STEPS, ExplorerQuery, explorer_query
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.equivalents import Equivalent
from phema.services.api.pages.rendering.page import Pages
from phema.shared.snapshots.profile import Profile

router = APIRouter()

Query = Annotated[ExplorerQuery, Depends(explorer_query)]


@router.get("/runs/{run}/explorer")
async def explorer(request: Request, pages: PagesDep, run: RunRef, query: Query) -> HTMLResponse:
    # A plan is solved for the page, as for the requests of its scripts.
    return await pages.services.planning.run(partial(_page, request, pages, run, query))


def _page(request: Request, pages: Pages, run: str, query: ExplorerQuery) -> HTMLResponse:
    found = explorer_data.load(pages.services, run, query)
    if isinstance(found, explorer_data.NothingStored):
        return pages.render(request, "explorer_empty.html", run=found.run, sentence=found.sentence)
    return pages.render(
        request,
        "explorer.html",
        same_by=_same_by(request, pages, found),
        found=found,
        query=query,
        profile=found.profile,
        data=_script_data(found),
        profile_text=json.dumps(dict(query.profile), ensure_ascii=False),
    )


def _script_data(found: explorer_data.Explored) -> dict[str, Any]:
    """What the scripts start with, so that they need no request for the state of the address."""
    analysis, preview = found.measured.analysis, found.previewed.plan
    return {
        "run": found.run.name,
        "slider": SLIDER,
        "pictures": PICTURES,
        "steps": STEPS,
        "curves": found.curves.model_dump(mode="json"),
        "measured": None if analysis is None else analysis.model_dump(mode="json"),
        "preview": None if preview is None else preview.model_dump(mode="json", exclude={"plan"}),
    }


def _same_by(request: Request, pages: Pages, found: explorer_data.Explored) -> list[Equivalent]:
    run, wanted, sampler = found.run.name, found.wanted, found.sampler
    base, options, at = f"/v1/runs/{run}", _options(found), ["--at", str(found.num_images)]
    arguments = _arguments(wanted)
    return [
        pages.equivalent(
            request,
            "Profile, errors and shares",
            f"{base}/profile-curves",
            f"client.profile_curves({run!r}, {arguments})",
            None if options is None else ["reconstruct", run, *options, *at, "--plan"],
            wanted,
        ),
        pages.equivalent(
            request,
            "These pictures",
            f"{base}/previews",
            f"client.preview({run!r}, {arguments}, {_arguments(sampler)})",
            None,
            wanted | sampler,
        ),
        pages.equivalent(
            request,
            "The weights",
            f"{base}/reconstructions",
            f"client.reconstruct({run!r}, {arguments})",
            None if options is None else ["reconstruct", run, *options, *at, "--output", "."],
            wanted,
        ),
        pages.equivalent(
            request,
            "Measured curve",
            f"/v1/analyses/ema-length?run={run}&num_images={found.num_images}",
            f'client.analyses.get("ema-length", {run!r}, num_images={found.num_images})',
            ["analyze", "ema-length", run, *at],
        ),
    ]


def _arguments(body: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in body.items())


def _options(found: explorer_data.Explored) -> list[str] | None:
    """The options of `phema reconstruct` for the average; None for kinds that need a file."""
    profile = found.profile
    match profile:
        case Profile(kind="power", sigma_rel=float(width)):
            options = ["--sigma-rel", repr(width)]
        case Profile(kind="exponential", half_life_images=int(images), rampup_ratio=None):
            options = ["--half-life", str(images)]
        case Profile(kind="uniform", window_images=int(images)):
            options = ["--window", str(images)]
        case Profile(kind="lr_decay", length_images=int(images)):
            options = ["--lr-decay", f"{profile.shape}:{images}"]
        case _:
            return None
    return [*options, *(word for name, width in found.query.tensors for word in ("--tensor", f"{name}={width!r}"))]
