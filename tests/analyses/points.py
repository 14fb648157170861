"""Finished evaluations with known figures."""

from __future__ import annotations

from typing import Any

from phema.shared.analyses.evaluated_points import EvaluatedPoint, GuideWeights
from phema.shared.metrics.figures import FigureValue, jackknifed
from phema.shared.snapshots.profile import Profile

RECIPE: dict[str, Any] = {"num_samples": 500, "num_steps": 12, "seed": 0, "guidance": 1.0, "guidance_interval": None}
COMMON = (0.3, -0.2, 0.1, -0.4, 0.2)
"""What the blocks of seeds add to every value: much more than lengths differ."""


def value(mean: float, *own: float) -> FigureValue:
    """A figure whose blocks share COMMON; `own` is the noise of this value alone, per block."""
    noise = own or (0.0,) * len(COMMON)
    return jackknifed(mean, [mean + shared + single for shared, single in zip(COMMON, noise, strict=True)])


def point(
    profile: float | Profile,
    figure: FigureValue | float,
    *,
    run: str = "a",
    num_images: int = 6400,
    guide: GuideWeights | None = None,
    name: str = "frechet",
    **recipe: Any,
) -> EvaluatedPoint:
    found = figure if isinstance(figure, FigureValue) else FigureValue(figure)
    weights = profile if isinstance(profile, Profile) else Profile.power(profile)
    identity = f"{run}-{num_images}-{weights.label}-{guide and guide.label}-{recipe}"
    return EvaluatedPoint(
        evaluation_id=f"eval-{identity}",
        reconstruction_id=f"rec-{identity}",
        run=run,
        num_images=num_images,
        profile=weights,
        recipe=RECIPE | recipe,
        figures={name: found},
        guide=guide,
    )
