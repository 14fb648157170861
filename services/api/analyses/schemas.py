"""Analyses as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel
from phema.shared.analyses.kinds import ANALYSES

if TYPE_CHECKING:
    AnalysisName = str
else:
    # The allowed values follow the registry; in the schema and in error messages they are an enumeration.
    AnalysisName = StrEnum("AnalysisName", {name: name for name in ANALYSES})

DataFormat = Literal["json", "csv", "svg", "png"]


class AnalysisRow(ResponseModel):
    """One evaluation beside the best one."""

    run: str = Field(description="Name of the run.")
    num_images: int
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None
    guidance: float
    guidance_low: float | None = Field(description="Lowest guided noise level; null if all are guided.")
    guidance_high: float | None
    guide_run: str | None
    guide_num_images: int | None
    guide_sigma_rel: float | None
    num_samples: int | None
    figure: str
    value: float
    standard_error: float | None
    difference: float = Field(description="To the best row.")
    difference_error: float | None = Field(
        description="Standard error of the difference, on common random numbers where seeds are equal."
    )
    best: bool
    tied: bool = Field(description="The row cannot be told from the best one: less than two errors of the difference.")
    reconstruction_id: str
    evaluation_id: str


class Analysis(ResponseModel):
    """Finished evaluations that differ only in what is studied, and in the run."""

    analysis: str
    description: str
    figure: str
    title: str = Field(description="The figure in words.")
    better: Literal["lower", "higher"]
    runs: list[str]
    recipe: dict[str, Any] = Field(description="The fields of the sampling recipe that all rows share.")
    left_out: int = Field(description="Finished evaluations of the runs that cannot be compared with these.")
    rows: list[AnalysisRow]


class ProfileRow(ResponseModel):
    """One reconstruction: what it wanted, and its predicted errors."""

    label: str
    sigma_rel: float | None
    num_images: int
    snapshots: int = Field(description="Number of snapshots that were read.")
    profile_error: float | None = Field(description="Relative L2 distance between wanted and reconstructed profile.")
    predicted_error: float
    noise_gain: float


class ProfileAnalysis(ResponseModel):
    """Profiles of finished reconstructions at one time."""

    analysis: Literal["profiles"]
    run: str
    num_images: int
    rows: list[ProfileRow]
