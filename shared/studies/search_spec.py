"""A search: ranges of EMA length and guidance, a figure, and a budget. `search_steps` chooses the points."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from phema.shared.edm2.networks.config import FrozenModel
from phema.shared.metrics.registry import FIGURES, METRICS, minimum_pictures
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import MAX_IMAGES, SigmaRel
from phema.shared.snapshots.profile import Profile
from phema.shared.studies.errors import StudyError
from phema.shared.studies.point import StudyPointSpec, WeightsSpec
from phema.shared.studies.search_space import Axis, Point, SearchSpace
from phema.shared.studies.search_steps import BudgetTooSmall, SearchProblem
from phema.shared.validation_sentences import sentence

MAX_BUDGET = 10_000_000
"""Pictures."""
_SEEDS = 2**31
_RECIPE = ("num_steps", "sigma_min", "sigma_max", "rho", "churn", "churn_min", "churn_max", "churn_noise", "grid")
"""Fields of the recipe that are equal at all points, except those of guidance."""

Images = Annotated[int, Field(ge=1, le=MAX_IMAGES)]


def _ends(given: Any) -> Any:
    """One value is a range with equal ends."""
    return tuple(given) if isinstance(given, list | tuple) else (given, given)


SigmaRelRange = Annotated[tuple[SigmaRel, SigmaRel], BeforeValidator(_ends)]


class SearchGuide(FrozenModel):
    """The weights that guide the sampler."""

    run: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Id or name of the guide's run; by default the run itself."
    )
    num_images: Images | None = Field(
        default=None, description="Training time of the guide; by default the latest of its run."
    )
    sigma_rel: SigmaRelRange = Field(description="EMA length of the guide: one value, or the range `[low, high]`.")


class SearchSpec(FrozenModel):
    """Ranges, a figure and a budget."""

    sigma_rel: tuple[SigmaRel, SigmaRel] = Field(
        default=(0.015, 0.25), description="Range `[low, high]` of the EMA length."
    )
    num_images: Images | None = Field(default=None, description="Training time with a snapshot; by default the latest.")
    guidance: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] | None = Field(
        default=None, description="Range `[low, high]` of the guidance weight; needs `guide`."
    )
    guide: SearchGuide | None = Field(default=None, description="Weights that guide the sampler.")
    guidance_interval: tuple[float, float] | None = Field(
        default=None, description="Noise levels `[low, high]` at which guidance acts; null for all."
    )
    figure: str | None = Field(
        default=None,
        description="The figure whose best value is searched; by default the one that ranks the run's evaluations.",
    )
    budget: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = Field(
        default=8000, description="Largest number of pictures that the search draws, grids excepted."
    )
    num_steps: int = Field(default=32, description="Steps of the sampler.")
    sigma_min: float = Field(default=0.002, description="Lowest noise level.")
    sigma_max: float = Field(default=80.0, description="Highest noise level.")
    rho: float = Field(default=7.0, description="Exponent that spaces the noise levels.")
    churn: float = Field(default=0.0, description="Amount of fresh noise over all steps.")
    churn_min: float = Field(default=0.0, description="Lowest noise level with fresh noise.")
    churn_max: float | None = Field(default=None, description="Highest noise level with fresh noise.")
    churn_noise: float = Field(default=1.0, description="Scale of the fresh noise.")
    seed: Annotated[int, Field(ge=0, lt=_SEEDS)] = Field(default=0, description="Seed of the first picture.")
    grid: int = Field(default=4, description="Rows and columns of each point's grid of pictures.")

    @property
    def space(self) -> SearchSpace:
        axes = [Axis("sigma_rel", *self.sigma_rel)]
        if self.guide is not None and self.guide.sigma_rel[0] < self.guide.sigma_rel[1]:
            axes.append(Axis("guide.sigma_rel", *self.guide.sigma_rel))
        if self.guidance is not None:
            axes.append(Axis("guidance", *self.guidance, logarithmic=False))
        return SearchSpace(tuple(axes))

    @property
    def problem(self) -> SearchProblem:
        """What the numerics need. `figure` must be set."""
        assert self.figure is not None
        minimum = minimum_pictures(metric_of(self.figure))
        return SearchProblem(
            space=self.space,
            better=FIGURES[self.figure].better,
            budget=self.budget,
            minimum=minimum,
            seed=self.seed,
        )

    def check(self) -> None:
        """Raise StudyError for ranges, figure or budget with which no search is possible."""
        ranges = {"sigma_rel": self.sigma_rel, "guidance": self.guidance}
        for field, ends in ranges.items():
            if ends is not None and ends[0] >= ends[1]:
                raise StudyError(
                    field, f"{field} [{ends[0]:g}, {ends[1]:g}] is no range; its second entry must be larger"
                )
        if self.guide is not None and self.guide.sigma_rel[0] > self.guide.sigma_rel[1]:
            low, high = self.guide.sigma_rel
            raise StudyError("guide.sigma_rel", f"guide.sigma_rel [{low:g}, {high:g}] must rise, or be one value")
        if (self.guidance is None) != (self.guide is None):
            given, missing = ("guide", "guidance") if self.guidance is None else ("guidance", "guide")
            raise StudyError(missing, f"{given} is given without {missing}; give both, or leave both out")
        if self.guidance_interval is not None and self.guidance is None:
            raise StudyError("guidance_interval", "guidance_interval has no effect without guidance; leave it out")
        if self.figure is not None:
            self._check_figure(self.figure)
            try:
                self.problem.check()
            except BudgetTooSmall as error:
                raise StudyError("budget", str(error)) from error
        if self.seed + 2 * self.budget >= _SEEDS:
            raise StudyError(
                "seed", f"seed {self.seed} must be below {_SEEDS - 2 * self.budget} for a budget of {self.budget}"
            )
        self._check_recipe()

    def _check_figure(self, figure: str) -> None:
        if figure not in FIGURES:
            raise StudyError("figure", f"figure {figure!r} is unknown; allowed are {', '.join(FIGURES)}")
        if METRICS[metric_of(figure)].extractor is None:
            raise StudyError(
                "figure",
                f"figure {figure} is computed without pictures, so a search by pictures has nothing to decide; "
                "use a sweep",
            )

    def _check_recipe(self) -> None:
        # Both ends: without guidance, a recipe has no interval to check.
        for end in ("low", "high"):
            self._check_recipe_at(tuple(getattr(axis, end) for axis in self.space.axes))

    def _check_recipe_at(self, point: Point) -> None:
        recipe = self.recipe(point, 1, self.seed)
        try:
            EvaluationRecipe.model_validate(
                {**recipe, "metrics": (), "guide_id": "guide" if recipe["guidance"] != 1 else None}
            )
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            field = ".".join(map(str, problem["loc"]))
            raise StudyError(field, sentence(problem)) from error

    def recipe(self, point: Point, num_samples: int, seed: int) -> dict[str, Any]:
        """Fields of an EvaluationRecipe, except `guide_id`, at one point of the space."""
        values = dict(zip((axis.name for axis in self.space.axes), point, strict=True))
        guidance = values.get("guidance", 1.0)
        interval = None if guidance == 1 or self.guidance_interval is None else list(self.guidance_interval)
        metrics = [] if self.figure is None else [metric_of(self.figure)]
        return {
            "guidance": guidance,
            "guidance_interval": interval,
            **{name: getattr(self, name) for name in _RECIPE},
            "num_samples": num_samples,
            "seed": seed,
            "metrics": metrics,
        }

    def point(self, run_id: str, point: Point, num_samples: int, seed: int) -> StudyPointSpec:
        """The complete point of a resolved search: times, the guide's run id and the figure are given."""
        values = dict(zip((axis.name for axis in self.space.axes), point, strict=True))
        recipe = self.recipe(point, num_samples, seed)
        guide = None
        if recipe["guidance"] != 1:
            assert self.guide is not None
            guide = _weights(
                self.guide.run, self.guide.num_images, values.get("guide.sigma_rel", self.guide.sigma_rel[0])
            )
        weights = _weights(run_id, self.num_images, values["sigma_rel"])
        return StudyPointSpec(weights=weights, guide=guide, recipe=recipe)

    def position(self, spec: StudyPointSpec) -> Point:
        """The inverse of `point`. Without guidance, the guide's length is that of the range's lower end."""
        values = spec.coordinates
        lowest = self.guide.sigma_rel[0] if self.guide is not None else 0.0
        return tuple(float(lowest if values[axis.name] is None else values[axis.name]) for axis in self.space.axes)


def metric_of(figure: str) -> str:
    """Name of the metric that computes a figure."""
    return next(name for name, metric in METRICS.items() if figure in [one.name for one in metric.figures])


def _weights(run_id: str | None, num_images: int | None, sigma_rel: float) -> WeightsSpec:
    assert run_id is not None
    assert num_images is not None
    return WeightsSpec(run_id=run_id, num_images=num_images, profile=Profile.power(sigma_rel))
