"""`/v1/models`: reconstructions that were promoted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from phema.services.api.http import downloads
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.idempotency import IdempotencyDep
from phema.services.api.http.problem_documents import problem_responses
from phema.services.api.http.problems import Damaged, NotFinished
from phema.services.api.http.schema_base import CursorParameter, Limit, Page, RunQuery
from phema.services.api.models import service
from phema.services.api.models.schemas import Model, ModelCreate, ModelDetail, ModelRef, NameQuery
from phema.services.api.snapshots.service import MEDIA_TYPE
from phema.shared.model_records.card import card, config_document
from phema.shared.snapshots.files.folder_layout import CARD_FILE

router = APIRouter(tags=["models"])
CARD_TYPE = "text/markdown; charset=utf-8"


@router.post(
    "/v1/models",
    status_code=201,
    response_model=ModelDetail,
    summary="Promote a reconstruction",
    responses={
        200: {"model": ModelDetail, "description": "The latest version of the name says the same of these weights."},
        **problem_responses(NotFinished, Damaged),
    },
)
def create_model(body: ModelCreate, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Keep a finished reconstruction as the next version of a named model, with the figures of its evaluations and its
    lineage. Nothing removes the weights of a model."""
    return service.promote(services, idempotency, body)


@router.get("/v1/models", summary="List models")
def list_models(
    services: ServicesDep,
    name: NameQuery = None,
    run: RunQuery = None,
    limit: Limit = 50,
    cursor: CursorParameter = None,
) -> Page[Model]:
    """Versions of models, newest first; `name` and `run` limit them."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, name=name, run=run, cursor=cursor, limit=limit)


@router.get("/v1/models/{model}", summary="One model")
def get_model(model: ModelRef, services: ServicesDep) -> ModelDetail:
    """A version of a model with its figures and lineage."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.to_detail(tx.models.get(model))


@router.get(
    "/v1/models/{model}/card",
    summary="Card of a model",
    response_class=Response,
    responses={
        200: {
            "description": "Markdown.",
            "content": {"text/markdown": {"schema": {"type": "string"}}},
        }
    },
)
def get_model_card(model: ModelRef, services: ServicesDep) -> Response:
    """The card of a version in Markdown: figures with their errors, lineage, and how to load the weights."""
    with services.catalog.transaction(read_only=True) as tx:
        record = service.record_of(tx, model)
    name = {"Content-Disposition": f'inline; filename="{CARD_FILE}"'}
    return Response(card(record), headers=name, media_type=CARD_TYPE)


@router.get("/v1/models/{model}/config", summary="Network of a model")
def get_model_config(model: ModelRef, services: ServicesDep) -> dict[str, Any]:
    """`config.json` of the model's folder. Beside it lie `README.md` (the card) and
    `diffusion_pytorch_model.safetensors` (the download)."""
    with services.catalog.transaction(read_only=True) as tx:
        record = service.record_of(tx, model)
    return config_document(record)


@router.head("/v1/models/{model}/download", include_in_schema=False)
@router.get(
    "/v1/models/{model}/download",
    summary="Download a model",
    response_class=Response,
    responses=downloads.file_responses(MEDIA_TYPE),
)
def download_model(model: ModelRef, request: Request, services: ServicesDep) -> Response:
    """The safetensors file. A local store sends it, with ranges; with S3, a redirect to a presigned URL."""
    with services.catalog.transaction(read_only=True) as tx:
        download = service.download(tx, model)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
