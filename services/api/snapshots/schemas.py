"""Snapshots as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel, Timestamp


class Snapshot(ResponseModel):
    """The weights of one EMA of one run at one time: immutable."""

    id: str
    run_id: str
    num_images: int
    profile: dict[str, Any] = Field(
        description="How it averages the history: `kind` (`power`, `exponential`, `raw`, …) and that kind's fields."
    )
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA, otherwise null.")
    pinned: bool = Field(description="Kept by every retention policy.")
    dtype: str
    size: int = Field(description="Bytes of the file.")
    sha256: str
    created_at: Timestamp
