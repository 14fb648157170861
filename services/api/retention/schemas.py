"""Retention and pins as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import MAX_COUNT, BodyId, RequestModel, ResponseModel
from phema.services.api.jobs.schemas import Job
from phema.services.api.snapshots.schemas import Snapshot

Time = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Times = Annotated[tuple[Time, ...], Field(min_length=1, max_length=64)]

PARAMETERS = {"keep": "latest", "coarsest": "thin", "times": "basis"}
"""Which policy a parameter belongs to."""


class RetentionCreate(RequestModel):
    """A policy for the snapshots of a run. Nothing is deleted unless `dry_run` is false."""

    policy: Literal["all", "thin", "basis", "latest"] = Field(
        description="`all` keeps every snapshot; `thin` fewer the older they are; `basis` only what finished bases do "
        "not stand for; `latest` the latest few times, which is refused unless forced."
    )
    coarsest: int | None = Field(
        default=None, description="With `thin`: one of so many times stays in the older half; a power of 2, default 8."
    )
    times: Times | None = Field(
        default=None, description="With `basis`: times of the bases to rely on; absent for all that are finished."
    )
    keep: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None, description="With `latest`: how many times stay."
    )
    at: Times | None = Field(
        default=None,
        description="Times of the forecast; absent for those nearest to the end, half and quarter of the run.",
    )
    force: bool = Field(default=False, description="Do what is refused otherwise.")
    dry_run: bool = Field(default=True, description="Answer what would be freed and what it would cost; do nothing.")

    @model_validator(mode="after")
    def _fields_of_the_policy(self) -> Self:
        for name, policy in PARAMETERS.items():
            if getattr(self, name) is not None and self.policy != policy:
                raise ValueError(f"{name} belongs to policy {policy!r}; policy {self.policy!r} does not have it")
        if self.policy == "latest" and self.keep is None:
            raise ValueError("policy 'latest' needs keep, the number of times that stay")
        return self


class Amount(ResponseModel):
    snapshots: int
    bytes: int


class ForecastLine(ResponseModel):
    sigma_rel: float
    before: float | None = Field(description="Predicted relative error of the weights today.")
    after: float | None = Field(description="The same afterwards; null when it could not be reconstructed any more.")


class Forecast(ResponseModel):
    """Errors of reconstructions at one time."""

    num_images: int
    errors: list[ForecastLine]


class Retention(ResponseModel):
    """What a policy frees and what it does to reconstructions."""

    policy: str
    dry_run: bool
    frees: Amount
    keeps: Amount
    pinned: int = Field(description="Snapshots that the policy would drop and a pin keeps.")
    in_use: int = Field(
        description="Snapshots that stay this time: a queued or running job reads them, or training would write them "
        "again when it is resumed."
    )
    times_lost: int = Field(description="Times of which no EMA can be reconstructed from snapshots any more.")
    forecasts: list[Forecast]
    refused: str | None = Field(description="Why it is not done unless forced; null when nothing is refused.")
    job: Job | None = Field(description="What deletes; null for a dry run, or when nothing is left to delete.")


class PinCreate(RequestModel):
    """Snapshots of a run, by id or by time."""

    snapshot_ids: Annotated[tuple[BodyId, ...], Field(min_length=1, max_length=1000)] | None = None
    num_images: Time | None = Field(default=None, description="All snapshots of this time.")
    pinned: bool = Field(default=True, description="False takes the pin away.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.snapshot_ids is None) == (self.num_images is None):
            raise ValueError("give either snapshot_ids or num_images")
        return self


class Pinned(ResponseModel):
    """The snapshots that were named, as they are now."""

    snapshots: list[Snapshot]
