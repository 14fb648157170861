"""Evaluations as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.shared.catalog import JobState
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe, MetricName


class EvaluationCreate(EvaluationRecipe):
    """A reconstruction and its sampling and scoring recipe. Absent fields have the recipe's defaults."""

    reconstruction_id: BodyId = Field(description="A finished reconstruction.")
    guide_id: BodyId | None = Field(
        default=None,
        description="A finished reconstruction that guides the sampler, of any run and time with the same picture "
        "size and classes.",
    )
    metrics: tuple[MetricName, ...] | None = Field(  # type: ignore[assignment]
        default=None,
        description="Metrics to compute; by default all that the run supports. `held_out_loss` needs pictures that "
        "were kept out of training.",
    )

    @model_validator(mode="after")
    def _guidance_has_an_effect(self) -> Self:
        """Checked here and not in EvaluationRecipe: older evaluations with such recipes must still be shown."""
        if self.guidance == 1:
            for field in ("guide_id", "guidance_interval"):
                if (value := getattr(self, field)) is not None:
                    shown = value if isinstance(value, str) else "[{:g}, {:g}]".format(*value)
                    raise ValueError(
                        f"{field} {shown} has no effect with guidance 1; leave it out, or give a guidance other than 1"
                    )
        return self

    def recipe(self, metrics: Sequence[MetricName]) -> EvaluationRecipe:
        """The recipe of the request, with these metrics."""
        return EvaluationRecipe.model_validate(self.model_dump(exclude={"reconstruction_id"}) | {"metrics": metrics})


class Evaluation(ResponseModel):
    """Figures and pictures of one set of weights with one recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any] = Field(description="How the weights average the training history: `kind` and its fields.")
    label: str = Field(description="Short name of the profile, for people; not unique.")
    sigma_rel: float | None = Field(description="Relative width of a power-function EMA; null for other kinds.")
    state: JobState
    recipe: EvaluationRecipe
    figures: dict[str, float | None] | None = Field(
        description="Name and value of each figure of the recipe's metrics; null until the job is done."
    )
    job_id: str | None
    error: str | None
    created_at: Timestamp
