"""Evaluations as JSON."""

from __future__ import annotations

from pydantic import Field

from services.api.schema import Answer, BodyId, Timestamp
from shared.catalog import JobState
from shared.recipes.config import EvaluationRecipe


class EvaluationCreate(EvaluationRecipe):
    """A reconstruction, and how it is sampled and scored; what is absent is the recipe's default."""

    reconstruction_id: BodyId = Field(description="A finished reconstruction.")
    guide_id: BodyId | None = Field(
        default=None,
        description="A finished reconstruction that guides the sampler: of any run and time whose pictures and classes "
        "fit.",
    )

    @property
    def recipe(self) -> EvaluationRecipe:
        return EvaluationRecipe.model_validate(self.model_dump(exclude={"reconstruction_id"}))


class Evaluation(Answer):
    """Figures and pictures of one set of weights under one recipe."""

    id: str
    run_id: str
    reconstruction_id: str
    num_images: int
    sigma_rel: float
    state: JobState
    recipe: EvaluationRecipe
    figures: dict[str, float | None] | None = Field(
        description="`frechet` and `held_out_loss`, as far as the recipe asked for them; null until the job is done."
    )
    job_id: str | None
    error: str | None
    created_at: Timestamp
