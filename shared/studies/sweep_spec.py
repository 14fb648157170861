"""A sweep: a grid over weights, guide and sampling recipe. `sweep_points` expands it to points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from phema.shared.edm2.networks.config import FrozenModel
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe, MetricName
from phema.shared.recipes.run_config import MAX_IMAGES, SigmaRel
from phema.shared.snapshots.profile import Profile, TensorProfile
from phema.shared.studies.errors import StudyError
from phema.shared.validation_sentences import requirement, sentence

MAX_POINTS = 10_000
"""Points of one sweep. Each is an evaluation: more would take weeks."""
_PLACEHOLDER = "guide"
"""Stands for the id of a guide whose reconstruction does not exist yet."""

G = TypeVar("G", bound=FrozenModel)


def _values(given: Any) -> Any:
    """One value is an axis with one value."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _intervals(given: Any) -> Any:
    """One interval is two numbers; several are a list of intervals, where null stands for all noise levels."""
    if isinstance(given, list | tuple) and (not given or not isinstance(given[0], int | float)):
        return tuple(given)
    return (given,)


def _pattern_lists(given: Any) -> Any:
    """One list of patterns, or several such lists."""
    if isinstance(given, list | tuple) and given and not isinstance(given[0], list | tuple):
        return (tuple(given),)
    return given


Images = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
# The schema of a request allows one value in place of a list.
Counts = Annotated[tuple[Images, ...], BeforeValidator(_values, json_schema_input_type=Images | list[Images])]
Integers = Annotated[tuple[int, ...], BeforeValidator(_values, json_schema_input_type=int | list[int])]
Floats = Annotated[tuple[float, ...], BeforeValidator(_values, json_schema_input_type=float | list[float])]
Bounds = Annotated[
    tuple[float | None, ...],
    BeforeValidator(_values, json_schema_input_type=float | list[float | None] | None),
]
SigmaRels = Annotated[tuple[SigmaRel, ...], BeforeValidator(_values, json_schema_input_type=SigmaRel | list[SigmaRel])]
Profiles = Annotated[tuple[Profile, ...], BeforeValidator(_values, json_schema_input_type=Profile | list[Profile])]
Intervals = Annotated[
    tuple[tuple[float, float] | None, ...],
    BeforeValidator(_intervals, json_schema_input_type=tuple[float, float] | list[tuple[float, float] | None] | None),
]
Tensors = Annotated[
    tuple[tuple[TensorProfile, ...], ...],
    BeforeValidator(_pattern_lists, json_schema_input_type=list[TensorProfile] | list[list[TensorProfile]]),
]


class GuideGrid(FrozenModel):
    """The weights that guide the sampler."""

    run: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Id or name of the guide's run; by default the run itself."
    )
    num_images: Counts | None = Field(
        default=None, description="Training times of the guide; by default the latest of its run."
    )
    sigma_rel: SigmaRels = Field(description="EMA lengths of the guide.")


class SweepSpec(FrozenModel):
    """A grid. Every axis takes one value or a list of distinct values; the points are all combinations."""

    sigma_rel: SigmaRels | None = Field(
        default=None, description="Axis: EMA lengths. Give `sigma_rel` or `profiles`, exactly one of them."
    )
    profiles: Profiles | None = Field(default=None, description="Axis: profiles of any kind but `basis`.")
    tensors: Tensors | None = Field(
        default=None,
        description="Axis: each value is a list of `{pattern, profile}` for tensors that differ from the profile; an "
        "empty list changes none.",
    )
    num_images: Counts | None = Field(
        default=None, description="Axis: training times with a snapshot; by default the latest."
    )
    guide: GuideGrid | None = Field(default=None, description="Axes of the guide, for every `guidance` other than 1.")
    guidance: Floats = Field(default=(1.0,), description="Axis: guidance weights; 1 is no guidance and has no guide.")
    guidance_interval: Intervals = Field(
        default=(None,), description="Axis: noise levels `[low, high]` at which guidance acts; null for all."
    )
    num_steps: Integers = Field(default=(32,), description="Axis: steps of the sampler.")
    sigma_min: Floats = Field(default=(0.002,), description="Axis: lowest noise level.")
    sigma_max: Floats = Field(default=(80.0,), description="Axis: highest noise level.")
    rho: Floats = Field(default=(7.0,), description="Axis: exponent that spaces the noise levels.")
    churn: Floats = Field(default=(0.0,), description="Axis: amount of fresh noise over all steps.")
    churn_min: Floats = Field(default=(0.0,), description="Axis: lowest noise level with fresh noise.")
    churn_max: Bounds = Field(
        default=(None,), description="Axis: highest noise level with fresh noise; null for no bound."
    )
    churn_noise: Floats = Field(default=(1.0,), description="Axis: scale of the fresh noise.")
    seed: Integers = Field(default=(0,), description="Axis: seed of the first picture; equal at points to compare.")
    num_samples: int = Field(default=1024, description="Pictures per point.")
    metrics: tuple[MetricName, ...] | None = Field(
        default=None, description="Metrics to compute at every point; by default those of the run's dataset."
    )
    grid: int = Field(default=10, description="Rows and columns of each point's grid of pictures.")

    @property
    def averages(self) -> list[Profile]:
        """The profile of every point's weights, in order, for each time."""
        plain = self.profiles or tuple(map(Profile.power, self.sigma_rel or ()))
        if self.tensors is None:
            return list(plain)
        return [
            Profile(kind="per_tensor", default=profile, tensors=patterns) if patterns else profile
            for profile in plain
            for patterns in self.tensors
        ]

    def check(self) -> None:
        """Raise StudyError unless the grid has points, each of which can be evaluated."""
        for name, values in _axes(self):
            if not values:
                raise StudyError(name, f"{name} is an empty list; name at least one value, or leave {name} out")
            if len(values) > MAX_POINTS:
                raise StudyError(
                    name,
                    f"{name} lists {len(values):,} values; a sweep takes at most {MAX_POINTS:,} points; list fewer",
                )
            if len(set(values)) < len(values):
                twice = next(value for value, count in Counter(values).items() if count > 1)
                raise StudyError(name, f"{name} names {_shown(twice)} twice; name each value once")
        if (self.sigma_rel is None) == (self.profiles is None):
            given = "both are given" if self.sigma_rel is not None else "neither is given"
            raise StudyError("sigma_rel", f"a sweep takes sigma_rel or profiles, and {given}; give one of them")
        self._check_guidance()
        # Before the profiles, which are built one by one.
        count = self.num_points
        if count > MAX_POINTS:
            raise StudyError(
                "", f"the grid has {count:,} points; a sweep takes at most {MAX_POINTS:,}; give shorter lists"
            )
        self._check_profiles()
        for fields in self.recipes():
            _check_recipe(fields)

    @property
    def num_points(self) -> int:
        """Computed from the lengths of the axes; nothing is built."""
        profiles = len(self.profiles or self.sigma_rel or ())
        patterns = 1 if self.tensors is None else len(self.tensors)
        weights = profiles * patterns * len(self.num_images or (None,))
        unguided = sum(weight == 1 for weight in self.guidance)
        guides = len(self.guide.sigma_rel) * len(self.guide.num_images or (None,)) if self.guide else 1
        guided = (len(self.guidance) - unguided) * guides * len(self.guidance_interval)
        others = math.prod(len(getattr(self, name)) for name in _OTHER_AXES)
        return weights * (unguided + guided) * others

    def recipes(self) -> Iterator[dict[str, Any]]:
        """The combinations of the recipe's fields in order, each once: without guidance an interval means nothing."""
        fixed: dict[str, Any] = {"num_samples": self.num_samples, "grid": self.grid}
        fixed |= {} if self.metrics is None else {"metrics": list(self.metrics)}
        others = [getattr(self, name) for name in _OTHER_AXES]
        for guidance, interval, *values in product(self.guidance, self.guidance_interval, *others):
            if guidance == 1 and interval is not self.guidance_interval[0]:
                continue
            shown_interval = None if guidance == 1 or interval is None else list(interval)
            guided = {"guidance": guidance, "guidance_interval": shown_interval}
            yield {**guided, **dict(zip(_OTHER_AXES, values, strict=True)), **fixed}

    def _check_profiles(self) -> None:
        field = "sigma_rel" if self.sigma_rel is not None else "profiles"
        try:
            averages = self.averages
        except ValidationError as error:
            raise StudyError(field, f"{sentence(error.errors()[0], field)}") from error
        if any(profile.kind == "basis" for profile in averages):
            raise StudyError(field, f"{field} names a basis, which is no average; name another kind")
        if self.tensors is not None and any(profile.kind == "per_tensor" for profile in self.profiles or ()):
            raise StudyError("tensors", "tensors and a per_tensor profile both name tensors; give one of them")

    def _check_guidance(self) -> None:
        guided = [weight for weight in self.guidance if weight != 1]
        if guided and self.guide is None:
            raise StudyError(
                "guide", f"guidance {guided[0]:g} needs guide; only guidance 1 samples without a guide: give one"
            )
        if guided:
            return
        for field, given in (("guide", self.guide is not None), ("guidance_interval", any(self.guidance_interval))):
            if given:
                raise StudyError(field, f"{field} has no effect with guidance 1; leave it out, or add another guidance")


class StoredSweep(SweepSpec):
    """A resolved sweep as the catalog stores it."""

    extends: str | None = None
    """Id of the sweep that this one extends."""

    @property
    def spec(self) -> SweepSpec:
        return SweepSpec(**{name: getattr(self, name) for name in SweepSpec.model_fields})


_OTHER_AXES = (
    "num_steps",
    "sigma_min",
    "sigma_max",
    "rho",
    "churn",
    "churn_min",
    "churn_max",
    "churn_noise",
    "seed",
)
"""Fields of the recipe that are axes, other than those of guidance."""
_WEIGHT_AXES = ("sigma_rel", "profiles", "tensors", "num_images")
_GUIDANCE_AXES = ("guidance", "guidance_interval")
_GUIDE_AXES = ("num_images", "sigma_rel")


def extended(spec: G, more: Mapping[str, Any]) -> G:
    """A sweep or its guide with the further values of `more` on its axes, and with `more`'s other fields.

    `more` holds fields by name, already validated. Values that the sweep has stay in their places.
    """
    changes: dict[str, Any] = {}
    for name, values in more.items():
        before = getattr(spec, name)
        if isinstance(before, tuple):
            present = set(before)
            values = (*before, *(value for value in values if value not in present))
        changes[name] = values
    return spec.model_copy(update=changes)


def _axes(spec: SweepSpec) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every axis that is given, with its path."""
    for name in (*_WEIGHT_AXES, *_GUIDANCE_AXES, *_OTHER_AXES):
        if (values := getattr(spec, name)) is not None:
            yield name, values
    for name in _GUIDE_AXES:
        if spec.guide is not None and (values := getattr(spec.guide, name)) is not None:
            yield f"guide.{name}", values


def _check_recipe(fields: dict[str, Any]) -> None:
    guided = fields["guidance"] != 1
    try:
        EvaluationRecipe.model_validate({**fields, "guide_id": _PLACEHOLDER if guided else None})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:
            raise StudyError("", requirement(problem)) from error
        field = str(problem["loc"][0])
        raise StudyError(field, f"{field} {_shown(problem['input'])} {requirement(problem)}") from error


def _shown(value: Any) -> str:
    if isinstance(value, Profile):
        return value.label
    if value is None or value == ():
        return "null" if value is None else "an empty list"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
