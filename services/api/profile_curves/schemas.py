"""The curves of a plan as JSON."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import ResponseModel
from phema.services.api.reconstructions.schemas import Plan, WantedAverages

MAX_VALUES = 200_000
"""Points of all curves of a request together."""


class ProfileCurvesCreate(WantedAverages):
    """The wanted averages, as for a reconstruction, and the number of points of each curve."""

    points: Annotated[int, Field(ge=20, le=2000)] = Field(default=200, description="Points of each curve.")

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        count = sum(1 + len(profile.tensors or ()) for profile in self.wanted)
        if count * self.points > MAX_VALUES:
            raise ValueError(
                f"points {self.points} for {count:,} curves are {count * self.points:,} values; a request takes at "
                f"most {MAX_VALUES:,}"
            )
        return self


class ProfileCurve(ResponseModel):
    """Weighting of training history, wanted and reconstructed, of one output or of the tensors of one pattern.

    Values are densities times `num_images` of the plan: weight per share of training. They have 6 significant digits.
    """

    output: int = Field(description="Index in `plan.outputs`.")
    pattern: str | None = Field(
        description="Pattern of tensor names; null for the profile of all tensors that match no pattern."
    )
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    times: list[float] = Field(description="Images, rising to `num_images` of the plan; denser towards the end.")
    wanted: list[float] | None = Field(description="One per time. Null for raw weights, whose profile is an impulse.")
    reconstructed: list[float] | None = Field(
        description="One per time: the snapshots' profiles times their coefficients. Null if raw weights are read."
    )


class SnapshotShare(ResponseModel):
    """What one stored EMA contributes to each curve."""

    num_images: int
    label: str = Field(description="Short name of the stored profile.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    coefficients: list[float] = Field(description="One per curve, in the order of `curves`.")


class ProfileCurves(ResponseModel):
    """A plan and its curves (the paper's Figure 4). Computed without reading any weights."""

    plan: Plan
    curves: list[ProfileCurve] = Field(
        description="In the order of the outputs. The curve of an output comes first, then those of its patterns."
    )
    shares: list[SnapshotShare] = Field(
        description="In order of time. If the plan reads a basis: the snapshots from which the basis was made, which "
        "may have been deleted since."
    )
