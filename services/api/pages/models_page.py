"""`/models` and `/models/{model}`: promoted models."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from phema.services.api.http.schema_base import CursorParameter
from phema.services.api.models import service
from phema.services.api.models.schemas import ModelRef
from phema.services.api.pages.rendering.dependencies import PagesDep
from phema.services.api.pages.rendering.filters import with_query

router = APIRouter()
PAGE = 50


@router.get("/models")
def models(request: Request, pages: PagesDep, cursor: CursorParameter = None) -> HTMLResponse:
    """All versions of all models, newest first."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.page(tx, name=None, run=None, cursor=cursor, limit=PAGE)
    same_by = [pages.equivalent(request, "These models", "/v1/models", "client.models.list()", ["models", "list"])]
    older = with_query("models", {"cursor": found.next_cursor}) if found.next_cursor else None
    return pages.render(request, "models.html", models=found.items, older=older, same_by=same_by)


@router.get("/models/{model}")
def model(model: ModelRef, request: Request, pages: PagesDep) -> HTMLResponse:
    """One version of a model with its lineage."""
    with pages.services.catalog.transaction(read_only=True) as tx:
        found = service.to_detail(tx.models.get(model))
    reference = found.reference
    return pages.render(
        request,
        "model.html",
        model=found,
        same_by=[
            pages.equivalent(
                request,
                "This model",
                f"/v1/models/{reference}",
                f"client.models.get({reference!r})",
                ["models", "show", reference],
            ),
            pages.equivalent(
                request,
                "Its weights",
                f"/v1/models/{reference}/download",
                f"client.download({reference!r}, 'weights.safetensors')",
                ["download", reference],
            ),
        ],
    )
