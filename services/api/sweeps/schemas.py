"""Sweeps as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from phema.services.api.http.schema_base import BodyId, RequestModel, ResponseModel, Timestamp
from phema.services.api.jobs.schemas import Job
from phema.shared.catalog import JobState
from phema.shared.studies.sweep_spec import (
    Counts,
    Floats,
    Integers,
    Intervals,
    Profiles,
    SigmaRels,
    SweepSpec,
    Tensors,
)


class SweepCreate(SweepSpec):
    """A run and a grid. Every axis takes one value or a list of distinct values; the points are all combinations."""

    run: BodyId = Field(description="Id or name of the run.")

    @property
    def spec(self) -> SweepSpec:
        return SweepSpec(**{name: getattr(self, name) for name in SweepSpec.model_fields})


class GuideExtension(RequestModel):
    """Further values on the axes of the guide."""

    num_images: Counts | None = Field(default=None, description="Further training times of the guide.")
    sigma_rel: SigmaRels | None = Field(default=None, description="Further EMA lengths of the guide.")


class SweepExtend(RequestModel):
    """Further values on the axes of a sweep, or more pictures per point."""

    sigma_rel: SigmaRels | None = Field(default=None, description="Further EMA lengths.")
    profiles: Profiles | None = Field(default=None, description="Further profiles.")
    tensors: Tensors | None = Field(default=None, description="Further lists of profiles of some tensors.")
    num_images: Counts | None = Field(default=None, description="Further training times.")
    guide: GuideExtension | None = Field(default=None, description="Further values on the axes of the guide.")
    guidance: Floats | None = Field(default=None, description="Further guidance weights.")
    guidance_interval: Intervals | None = Field(default=None, description="Further guidance intervals.")
    num_steps: Integers | None = Field(default=None, description="Further numbers of steps.")
    churn: Floats | None = Field(default=None, description="Further amounts of fresh noise.")
    seed: Integers | None = Field(default=None, description="Further seeds.")
    num_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Pictures per point. Pictures that were drawn before count towards it."
    )

    @property
    def more(self) -> dict[str, Any]:
        """The fields that are given, those of the guide in a dict of their own."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        if self.guide is not None:
            axes = {name: getattr(self.guide, name) for name in GuideExtension.model_fields}
            given["guide"] = {name: values for name, values in axes.items() if values is not None}
        return given


class PointWeights(ResponseModel):
    """Which weights a point uses."""

    run_id: str
    num_images: int
    profile: dict[str, Any] = Field(description="`kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")


class StudyPoint(ResponseModel):
    """One point of a study: weights and recipe, and their figures as soon as there are some."""

    number: int
    state: JobState
    weights: PointWeights
    guide: PointWeights | None
    recipe: dict[str, Any] = Field(description="Fields of the evaluation's recipe, except `guide_id`.")
    reconstruction_id: str | None
    evaluation_id: str | None
    figures: dict[str, float | None] | None = Field(description="By name; null until the point is evaluated.")
    errors: dict[str, float | None] | None = Field(description="Standard error of each figure that has one.")
    difference: float | None = Field(
        description="How much worse than the best the ranking figure is; null without figures and for the best itself."
    )
    difference_error: float | None = Field(
        description="Standard error of `difference`; far below those of the two figures when seeds are equal."
    )
    distinct: bool | None = Field(
        description="Whether the best is better by more than two standard errors of the difference; null if unknown."
    )
    error: str | None = Field(description="Why the point has no figures.")


class Sweep(ResponseModel):
    """One sweep. Cancel it through its job; the same request continues it."""

    id: str
    run_id: str
    state: JobState
    spec: SweepSpec = Field(description="The complete grid, with the defaults filled in.")
    extends: str | None = Field(description="The sweep that this one extends; all its points are in this one too.")
    num_points: int
    result: dict[str, Any] | None = Field(
        description="The answer: number, value and standard error of the best point, the points that it cannot be "
        "told from (`indistinct`), axes on which it lies at the edge of the range (`edges`), and a sentence; null "
        "until the sweep is done."
    )
    job: Job
    error: str | None
    created_at: Timestamp


class SweepDetail(Sweep):
    """A sweep with its points so far."""

    figure: str | None = Field(description="The figure that ranks the points; null before the first figures.")
    best: int | None = Field(description="Number of the best point so far.")
    answer: str | None = Field(description="What the points so far say, in one sentence.")
    points: list[StudyPoint] = Field(description="The points that were started, in order.")
