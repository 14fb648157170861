"""One finished evaluation as an analysis sees it: which weights, which recipe, which figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phema.shared.metrics.figures import FigureValue
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class GuideWeights:
    """The weights that guide the sampler."""

    run: str
    """Name."""
    num_images: int
    profile: Profile

    @property
    def label(self) -> str:
        return f"{self.run}, {self.num_images:,} images, {self.profile.label}"


@dataclass(frozen=True)
class EvaluatedPoint:
    """One finished evaluation."""

    evaluation_id: str
    reconstruction_id: str
    run: str
    """Name."""
    num_images: int
    profile: Profile
    recipe: Mapping[str, Any]
    figures: Mapping[str, FigureValue]
    guide: GuideWeights | None = None
    pictures_key: str | None = None
    """Object of its grid of pictures."""

    @property
    def sigma_rel(self) -> float | None:
        """Of a power-function EMA; None for other profiles."""
        return self.profile.sigma_rel

    @property
    def guidance(self) -> float:
        return float(self.recipe.get("guidance", 1.0))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Noise levels between which the sampler is guided; None for all."""
        found = self.recipe.get("guidance_interval")
        return None if found is None else (float(found[0]), float(found[1]))
