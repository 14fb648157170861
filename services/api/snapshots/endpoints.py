"""`/v1/runs/{run}/snapshots`, `/v1/snapshots`: stored EMA snapshots of a run, and their files."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from phema.services.api.http import downloads
from phema.services.api.http.dependencies import ServicesDep
from phema.services.api.http.schema_base import CursorParameter, Id, Limit, Page, RunRef
from phema.services.api.snapshots import service
from phema.services.api.snapshots.schemas import Snapshot

router = APIRouter(tags=["snapshots"])


@router.get("/v1/runs/{run}/snapshots", summary="List a run's snapshots")
def list_snapshots(
    run: RunRef, services: ServicesDep, limit: Limit = 50, cursor: CursorParameter = None
) -> Page[Snapshot]:
    """Every stored EMA snapshot, in order of time, then of σ_rel; traditional EMAs come last."""
    with services.catalog.transaction(read_only=True) as tx:
        return service.page(tx, run, cursor=cursor, limit=limit)


@router.head("/v1/snapshots/{snapshot_id}/download", include_in_schema=False)
@router.get(
    "/v1/snapshots/{snapshot_id}/download",
    summary="Download a snapshot",
    response_class=Response,
    responses=downloads.file_responses(service.MEDIA_TYPE),
)
def download_snapshot(snapshot_id: Id, request: Request, services: ServicesDep) -> Response:
    """The safetensors file. A local store sends it, with ranges; with S3, a redirect to a presigned URL."""
    with services.catalog.transaction(read_only=True) as tx:
        download = service.download(tx, snapshot_id)
    return downloads.respond(request, services.store, download, url_seconds=services.settings.download_url_seconds)
