"""Snapshots as JSON."""

from __future__ import annotations

from pydantic import Field

from services.api.schema import Answer, Timestamp


class Snapshot(Answer):
    """The weights of one EMA of one run at one time: immutable."""

    id: str
    run_id: str
    num_images: int
    profile_kind: str = Field(description="`power`: a power-function EMA.")
    sigma_rel: float
    gamma: float = Field(description="Exponent of the power function.")
    dtype: str
    size: int = Field(description="Bytes of the file.")
    sha256: str
    created_at: Timestamp
