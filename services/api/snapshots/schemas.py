"""Snapshots as JSON."""

from __future__ import annotations

from pydantic import Field

from services.api.schema import Answer, Timestamp


class Snapshot(Answer):
    """The weights of one EMA of one run at one time: immutable."""

    id: str
    run_id: str
    num_images: int
    profile_kind: str = Field(description="`power`: a power-function EMA; `exponential`: a traditional EMA.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA, otherwise null.")
    gamma: float | None = Field(description="Exponent of the power function, otherwise null.")
    half_life_images: int | None = Field(description="Half-life of a traditional EMA, otherwise null.")
    rampup_ratio: float | None = Field(
        description="Largest share of the images seen that a traditional EMA's half-life was allowed; null for any."
    )
    dtype: str
    size: int = Field(description="Bytes of the file.")
    sha256: str
    created_at: Timestamp
