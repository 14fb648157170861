"""Requests for forks."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import MAX_COUNT, BodyId, RequestModel
from phema.services.api.run_plans.schemas import RunName


class ForkCreate(RequestModel):
    """A new run that begins from a checkpoint or from a reconstruction of another; by default the latest checkpoint."""

    name: RunName = Field(description="Name of the new run. Unique; letters, digits and `._-`.")
    num_images: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None,
        description="Begin from the checkpoint at this time: the clock, optimizer, averages and data continue.",
    )
    reconstruction_id: BodyId | None = Field(
        default=None,
        description="Begin with the weights of this finished reconstruction, at 0 images, with a new optimizer and new "
        "averages.",
    )
    config: dict[str, Any] = Field(
        default={},
        description="Fields that replace those of the other run's configuration, nested in the same way. The network "
        "must stay, except `network.dropout`; from a checkpoint, the tracked averages must stay too.",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.num_images is not None and self.reconstruction_id is not None:
            raise ValueError("num_images and reconstruction_id both name what the fork begins from; give one of them")
        return self
