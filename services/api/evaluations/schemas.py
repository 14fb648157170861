"""Evaluations as JSON."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.shared.catalog import JobState
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe, MetricName
from phema.shared.submissions.evaluations import EvaluationRequest


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
        description="Metrics to compute; by default those of the run's dataset that `num_samples` pictures are enough "
        "for. `held_out_loss` needs pictures that were kept out of training.",
    )

    @model_validator(mode="after")
    def _guidance_has_an_effect(self) -> Self:
        """Checked here and not in EvaluationRecipe: older evaluations with such recipes must still be shown."""
        if (sentence := self.without_effect()) is not None:
            raise ValueError(sentence)
        return self

    @property
    def request(self) -> EvaluationRequest:
        fields = self.model_dump(exclude={"reconstruction_id", "guide_id", "metrics"})
        return EvaluationRequest(self.reconstruction_id, fields, guide_id=self.guide_id, metrics=self.metrics)


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
    errors: dict[str, float | None] | None = Field(
        description="Standard error of each figure: how far another set of seeds would move it. Figures without one "
        "are missing; null for evaluations of earlier versions."
    )
    provenance: dict[str, Any] | None = Field(
        description="What decided the figures: feature extractors with the SHA-256 of their weights, references, "
        "numbers of pictures; and the speed of drawing, in `pictures_per_second` and `waiting_share`, the share of "
        "time in which actors neither drew nor computed features."
    )
    archive_size: int | None = Field(description="Size in bytes of the zip file of all pictures; null without one.")
    job_id: str | None
    error: str | None
    created_at: Timestamp
