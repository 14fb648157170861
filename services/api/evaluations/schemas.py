"""Evaluations as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from phema.services.api.http.schema_base import BodyId, ResponseModel, Timestamp
from phema.shared.catalog import JobState
from phema.shared.recipes.run_config import EvaluationRecipe, Metric


class EvaluationCreate(EvaluationRecipe):
    """A reconstruction, and how it is sampled and scored; what is absent is the recipe's default."""

    reconstruction_id: BodyId = Field(description="A finished reconstruction.")
    guide_id: BodyId | None = Field(
        default=None,
        description="A finished reconstruction that guides the sampler: of any run and time whose pictures and classes "
        "fit.",
    )
    metrics: tuple[Metric, ...] | None = Field(  # type: ignore[assignment]
        default=None,
        description="What to compute; by default all that the run can give: `held_out_loss` needs pictures that were "
        "kept from training.",
    )

    @model_validator(mode="after")
    def _guidance_has_an_effect(self) -> Self:
        """Not part of the recipe: evaluations that were once asked for so must still be shown."""
        if self.guidance == 1:
            for field in ("guide_id", "guidance_interval"):
                if (value := getattr(self, field)) is not None:
                    shown = value if isinstance(value, str) else "[{:g}, {:g}]".format(*value)
                    raise ValueError(
                        f"{field} {shown} has no effect with guidance 1; leave it out, or give a guidance other than 1"
                    )
        return self

    def recipe(self, metrics: Sequence[Metric]) -> EvaluationRecipe:
        """The recipe that is asked for, with its metrics named."""
        return EvaluationRecipe.model_validate(self.model_dump(exclude={"reconstruction_id"}) | {"metrics": metrics})


class Evaluation(ResponseModel):
    """Figures and pictures of one set of weights under one recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    profile: dict[str, Any] = Field(description="How the weights average the history: `kind` and its fields.")
    label: str = Field(description="The profile in short, for people; different ones may share it.")
    sigma_rel: float | None = Field(description="Of a power-function EMA, otherwise null.")
    state: JobState
    recipe: EvaluationRecipe
    figures: dict[str, float | None] | None = Field(
        description="`frechet` and `held_out_loss`, as far as the recipe asked for them; null until the job is done."
    )
    job_id: str | None
    error: str | None
    created_at: Timestamp
