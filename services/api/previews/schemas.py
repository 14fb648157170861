"""Previews as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.services.api.reconstructions.schemas import Plan, PredictedErrors, WantedAverages
from phema.shared.catalog import JobState
from phema.shared.recipes.sample_request import MAX_GRID_PICTURES, ClassChoice, SampleRequest
from phema.shared.recipes.sampler_settings import SamplerSettings
from phema.shared.recipes.seed_lists import Seeds
from phema.shared.submissions.previews import MAX_SEEDS

TOLERANCE = 3e-3
"""Differences between averages that a preview is for are many times larger."""


class PreviewCreate(WantedAverages, SamplerSettings):
    """One average of a run, as for a reconstruction, and the pictures to draw from it, as for a sample."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=TOLERANCE,
        description="Sufficient predicted relative error, so that fewer snapshots are read; null for a plan that is as "
        "good as with all snapshots.",
    )
    guide_id: BodyId | None = Field(
        default=None,
        description="A finished reconstruction that guides the sampler, of any run and time with the same picture "
        "size and classes.",
    )
    seeds: Seeds = Field(
        default=tuple(range(16)),
        description=f"One picture per seed: a list of integers, or a text such as `0-15,100`; at most {MAX_SEEDS}.",
    )
    class_label: ClassChoice = Field(
        default="random",
        description="Class of every picture: its number, its name if the dataset has class folders, `random` (each "
        "seed draws its own, as in evaluations), or `none`.",
    )
    columns: Annotated[int, Field(ge=1, le=MAX_GRID_PICTURES)] | None = Field(
        default=None, description="Columns of the grid; by default about as many as rows."
    )
    plan_only: bool = Field(
        default=False, description="Return the plan and how long the preview would take; do nothing."
    )

    @model_validator(mode="after")
    def _one_small_grid(self) -> Self:
        if len(self.wanted) != 1:
            raise ValueError(f"{self.field} names {len(self.wanted)} averages; a preview shows exactly one")
        if len(self.seeds) > MAX_SEEDS:
            raise ValueError(f"seeds names {len(self.seeds):,} pictures; a preview draws at most {MAX_SEEDS}")
        if (sentence := self.without_effect()) is not None:
            raise ValueError(sentence)
        return self

    @property
    def sample(self) -> SampleRequest:
        """What is drawn from the average."""
        return SampleRequest.model_validate({name: getattr(self, name) for name in _SAMPLED})


_SAMPLED = tuple(SampleRequest.model_fields.keys() & PreviewCreate.model_fields.keys())


class PreviewPlan(ResponseModel):
    """What a preview would read, and how long it would take."""

    plan: Plan
    parameters: int = Field(description="Parameters of the run's network.")
    seconds: float | None = Field(
        description="Reading at the speed of the latest reads and drawing at the speed of the latest previews, of this "
        "run if there are any; null before the first preview. Inputs that a worker holds in memory are not read again."
    )
    large: bool = Field(
        description="Whether drawing takes more than 2 s; before the first preview, whether the network has more than "
        "5 million parameters. Then do not draw while a slider moves."
    )


class Preview(PredictedErrors):
    """Pictures of one average, in a PNG grid. `size` and `sha256` are those of the file."""

    id: str
    run_id: str
    state: JobState
    num_images: int
    profile: dict[str, Any] = Field(description="How the weights average the training history: `kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    request: SampleRequest
    basis_id: str | None = Field(description="The basis that is read instead of snapshots; null if none.")
    job_id: str | None
    error: str | None
    size: int | None = Field(description="Bytes of the file; null until it is stored.")
    sha256: str | None
    created_at: Timestamp
