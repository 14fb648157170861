"""The keyword arguments of `client.evaluate` and `client.sample`, for editors and type checkers.

The fields are those of `EvaluationRecipe` and `SampleRequest`, where they are described; a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class SamplerFields(TypedDict, total=False):
    """Heun's sampler and guidance."""

    num_steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    guidance: float
    guide_id: str | None
    guidance_interval: Sequence[float] | None
    churn: float
    churn_min: float
    churn_max: float | None
    churn_noise: float


class RecipeFields(SamplerFields, total=False):
    """An evaluation's recipe."""

    num_samples: int
    seed: int
    metrics: Sequence[str] | None
    grid: int
    keep_pictures: bool


class SampleFields(SamplerFields, total=False):
    """A request for pictures, except the arguments that `client.sample` names itself."""

    columns: int | None


class PreviewFields(SamplerFields, total=False):
    """A request for a preview, except the arguments that `client.preview` names itself."""

    seeds: str | Sequence[int]
    class_label: int | str | None
    columns: int | None
    tolerance: float | None
    regularize: bool
