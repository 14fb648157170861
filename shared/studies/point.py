"""One point of a study: weights, guide and recipe, complete, so that it means the same at any later time."""

from __future__ import annotations

from typing import Any

from phema.shared.edm2.networks.config import FrozenModel
from phema.shared.snapshots.profile import Profile


class WeightsSpec(FrozenModel):
    """One average of one run at one time."""

    run_id: str
    num_images: int
    profile: Profile


class StudyPointSpec(FrozenModel):
    weights: WeightsSpec
    guide: WeightsSpec | None = None
    recipe: dict[str, Any]
    """Fields of an EvaluationRecipe except `guide_id`."""

    @property
    def coordinates(self) -> dict[str, Any]:
        """Values of the axes along which studies search, by name."""
        profile = self.weights.profile
        base = profile.default if profile.default is not None else profile
        return {
            "sigma_rel": base.sigma_rel,
            "num_images": self.weights.num_images,
            "guidance": self.recipe["guidance"],
            "guide.sigma_rel": self.guide.profile.sigma_rel if self.guide else None,
            "guide.num_images": self.guide.num_images if self.guide else None,
        }
