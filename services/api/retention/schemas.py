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
"""Parameter -> the policy that has it."""


class RetentionCreate(RequestModel):
    """A policy for the snapshots of a run. Nothing is deleted unless `dry_run` is false."""

    policy: Literal["all", "thin", "basis", "latest"] = Field(
        description="`all` keeps every snapshot. `thin` keeps fewer of the older ones. `basis` keeps those that no "
        "finished basis replaces. `latest` keeps the latest few times, and is refused unless forced."
    )
    coarsest: int | None = Field(
        default=None,
        description="With `thin`: of this many times in the older half, one stays. A power of 2; default 8.",
    )
    times: Times | None = Field(
        default=None, description="With `basis`: times of the bases to rely on; by default all finished ones."
    )
    keep: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = Field(
        default=None, description="With `latest`: number of times that stay."
    )
    at: Times | None = Field(
        default=None,
        description="Times of the forecast; by default those nearest to the end, half and quarter of the run.",
    )
    force: bool = Field(default=False, description="Apply the policy even if it is refused otherwise.")
    dry_run: bool = Field(default=True, description="Return what would be freed and what it would cost; do nothing.")

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
    before: float | None = Field(
        description="Predicted relative error of the weights now; null when they cannot be reconstructed."
    )
    after: float | None = Field(
        description="The same after the policy; null when they could no longer be reconstructed."
    )


class DecayForecastLine(ResponseModel):
    shape: str = Field(description="Shape of the learning-rate decay.")
    length_images: int = Field(description="Its length: the last fifth of the time.")
    before: float | None = Field(description="As for a sigma_rel.")
    after: float | None = Field(description="The same after the policy.")


class Forecast(ResponseModel):
    """Predicted errors of reconstructions at one time."""

    num_images: int
    errors: list[ForecastLine]
    decays: list[DecayForecastLine] = Field(description="Errors of `lr_decay` profiles.")


class Retention(ResponseModel):
    """What a policy frees, and how it changes the errors of reconstructions."""

    policy: str
    dry_run: bool
    frees: Amount
    keeps: Amount
    pinned: int = Field(description="Snapshots that the policy would drop but a pin keeps.")
    in_use: int = Field(
        description="Snapshots that the policy would drop but that stay this time, because a queued or running job "
        "reads them, or because training would write them again when it is resumed."
    )
    times_lost: int = Field(description="Times at which snapshots could no longer give any EMA.")
    forecasts: list[Forecast]
    refused: str | None = Field(description="Why the policy is refused unless forced; null when it is not refused.")
    job: Job | None = Field(description="The job that deletes; null for a dry run, or when nothing is left to delete.")


class PinCreate(RequestModel):
    """Snapshots of a run, by id or by time."""

    snapshot_ids: Annotated[tuple[BodyId, ...], Field(min_length=1, max_length=1000)] | None = None
    num_images: Time | None = Field(default=None, description="All snapshots of this time.")
    pinned: bool = Field(default=True, description="False removes the pin.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.snapshot_ids is None) == (self.num_images is None):
            raise ValueError("give either snapshot_ids or num_images")
        return self


class Pinned(ResponseModel):
    """The named snapshots, as they are now."""

    snapshots: list[Snapshot]
