"""Snapshots as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp


class Snapshot(ResponseModel):
    """The weights of one EMA of one run at one time. Immutable."""

    id: str
    run_id: str
    num_images: int
    profile: dict[str, Any] = Field(
        description="How the weights average the training history: `kind` (`power`, `exponential`, …) and its fields."
    )
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    pinned: bool = Field(description="Whether every retention policy keeps it.")
    dtype: str
    size: int = Field(description="Bytes of the file.")
    sha256: str
    created_at: Timestamp
