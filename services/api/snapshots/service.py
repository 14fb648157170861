"""Catalog rows of snapshots as answers of the API, and their files."""

from __future__ import annotations

from typing import Any

from phema.services.api.http.downloads import Download
from phema.services.api.http.schema_base import Page
from phema.services.api.snapshots.schemas import Snapshot
from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.snapshots.profile import Profile

MEDIA_TYPE = "application/octet-stream"
"""Safetensors files have no registered media type."""


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[Snapshot]:
    """In order of time, then profile. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.snapshots.page(tx.runs.get(run).id, after=cursor, limit=limit)
    return Page(items=[to_snapshot(row) for row in found.items], next_cursor=found.next_cursor)


def download(tx: Transaction, snapshot_id: str) -> Download:
    """Raises catalog.NotFound."""
    row = tx.snapshots.get(snapshot_id)
    name = tx.runs.get(row.run_id).name
    return Download(row.key, row.size, row.sha256, weights_filename(name, row.num_images, row.profile), MEDIA_TYPE)


def weights_filename(run: str, num_images: int, profile: dict[str, Any]) -> str:
    """File name of weights, for people. Programs read the file's metadata."""
    return f"{run}-{num_images}-{Profile.model_validate(profile).label}.safetensors"


def to_snapshot(row: catalog.Snapshot) -> Snapshot:
    return Snapshot(
        id=row.id,
        run_id=row.run_id,
        num_images=row.num_images,
        profile=row.profile,
        sigma_rel=row.sigma_rel,
        pinned=row.pinned,
        dtype=row.dtype,
        size=row.size,
        sha256=row.sha256,
        created_at=row.created_at,
    )
