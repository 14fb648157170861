"""Bodies of the requests that change runs."""

from __future__ import annotations

from pydantic import Field

from phema.services.api.http.schema_base import MAX_COUNT, RequestModel


class Extension(RequestModel):
    """A longer training."""

    total_images: int = Field(
        ge=1,
        le=MAX_COUNT,
        description="The new length, longer than the present one and a multiple of the run's `batch_size`.",
    )
