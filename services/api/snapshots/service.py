"""Snapshots of the catalog as answers of the API."""

from __future__ import annotations

from services.api.downloads import Download
from services.api.schema import Page
from services.api.snapshots.schemas import Snapshot
from shared import catalog
from shared.catalog import Transaction

MEDIA_TYPE = "application/octet-stream"
"""Of safetensors, which have none of their own."""


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[Snapshot]:
    """In order of time, then profile. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.snapshots.page(tx.runs.get(run).id, after=cursor, limit=limit)
    return Page(items=[_snapshot(row) for row in found.items], next_cursor=found.next_cursor)


def download(tx: Transaction, snapshot_id: str) -> Download:
    """Raises catalog.NotFound."""
    row = tx.snapshots.get(snapshot_id)
    name = tx.runs.get(row.run_id).name
    return Download(row.key, row.size, row.sha256, weights_filename(name, row.num_images, row.sigma_rel), MEDIA_TYPE)


def weights_filename(run: str, num_images: int, sigma_rel: float | None) -> str:
    """For people; what a file is stands in its metadata. A traditional EMA has no sigma_rel."""
    return f"{run}-{num_images}-{'ema' if sigma_rel is None else f'{sigma_rel:g}'}.safetensors"


def _snapshot(row: catalog.Snapshot) -> Snapshot:
    return Snapshot(
        id=row.id,
        run_id=row.run_id,
        num_images=row.num_images,
        profile_kind=row.profile_kind,
        sigma_rel=row.sigma_rel,
        gamma=row.gamma,
        half_life_images=row.half_life_images,
        rampup_ratio=row.rampup_ratio,
        dtype=row.dtype,
        size=row.size,
        sha256=row.sha256,
        created_at=row.created_at,
    )
