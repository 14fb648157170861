"""Which points a search evaluates next. Pure: equal evaluations give an equal next step, so a search may be killed
between any two steps.

A search has three parts. It evaluates a few points with few pictures each; then, in several steps, more points or more
pictures where the model says that they decide; last it confirms the best point and its closest rivals on seeds that no
earlier step has used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phema.shared.metrics.figures import FigureValue
from phema.shared.studies.curve_model import CurveModel
from phema.shared.studies.sampling_noise import Observation
from phema.shared.studies.search_answer import Answer, answer
from phema.shared.studies.search_space import FloatArray, Point, SearchSpace

_FIRST_POINTS = {1: (4, 5), 2: (6, 10), 3: (10, 16)}
"""By number of axes: fewest and most points of the first step."""
_FIRST_SHARE, _CONFIRMED_SHARE = 0.25, 0.4
"""Of the budget: what the first step draws and what the confirmation draws. These numbers, and the others here, gave
the best answers for simulated curves like those of the digits."""
_MIDDLE_STEPS = 3
"""Number of steps between them. Each waits for the one before, so more steps take longer but choose better."""
_CONFIRMED_POINTS = {1: 3, 2: 4, 3: 5}
_SAMPLES = 512
"""Samples of the position of the minimum."""
_DISTINCT = 0.02
"""Distance, in units of the range, below which a new point would tell nothing that a known one does not."""
_MIN_PICTURES = 64
"""Smallest number of pictures per point; each of the 20 blocks of a jackknife then has at least 3."""


class BudgetTooSmall(ValueError):
    """The budget does not suffice for the fewest points with the fewest pictures. `smallest` does."""

    def __init__(self, given: int, smallest: int, pictures: int) -> None:
        self.smallest = smallest
        super().__init__(
            f"budget is {given} pictures; this search needs at least {smallest}, "
            f"since each of its points needs at least {pictures}"
        )


class SearchFailed(RuntimeError):
    """Too many points have no figure."""


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """What the numerics of a search depend on."""

    space: SearchSpace
    better: str
    """"lower" or "higher": the better value of the figure."""
    budget: int
    """Largest number of pictures that the search draws."""
    minimum: int = 1
    """Smallest number of pictures from which the figure can be computed."""
    most: int = 100_000
    """Largest number of pictures of one evaluation."""
    seed: int = 0
    """Of the first picture."""

    @property
    def pictures(self) -> int:
        """Fewest pictures per point."""
        return max(self.minimum + self.minimum // 4, _MIN_PICTURES)

    @property
    def fresh_seed(self) -> int:
        """First seed of the confirmation. Earlier steps draw fewer pictures per point than the budget."""
        return self.seed + self.budget

    def check(self) -> None:
        """Raises BudgetTooSmall."""
        fewest = _FIRST_POINTS[self.space.dimensions][0]
        smallest = max(
            -(-fewest * self.pictures // (1 - _CONFIRMED_SHARE)),
            -(-_CONFIRMED_POINTS[self.space.dimensions] * self.pictures // _CONFIRMED_SHARE),
        )
        if self.budget < smallest:
            raise BudgetTooSmall(self.budget, int(smallest), self.pictures)


@dataclass(frozen=True)
class Evaluated:
    """A point that a step has evaluated; `figure` is None if the evaluation failed."""

    step: int
    point: Point
    num_samples: int
    seed: int
    figure: FigureValue | None


@dataclass(frozen=True)
class Evaluate:
    """Evaluate these points, all with the same number of pictures from the same seed."""

    points: tuple[Point, ...]
    num_samples: int
    seed: int
    purpose: str
    """For people: what the step is for."""


def next_step(problem: SearchProblem, evaluated: Sequence[Evaluated]) -> Evaluate | Answer:
    """The next step after all points of all earlier ones were evaluated.

    Raises BudgetTooSmall, and SearchFailed if too many evaluations failed.
    """
    problem.check()
    if not evaluated:
        return _first(problem)
    done = sorted(evaluated, key=lambda one: (one.step, one.point))
    observations = _observations(problem, done)
    model = CurveModel(observations)
    last = max(one.step for one in done)
    if any(one.seed == problem.fresh_seed for one in done):
        return answer(problem.space, problem.better, model, problem.fresh_seed, pictures_drawn(done))
    left = problem.budget - pictures_drawn(done)
    for_confirmation = max(
        int(_CONFIRMED_SHARE * problem.budget), _CONFIRMED_POINTS[problem.space.dimensions] * problem.pictures
    )
    if last < _MIDDLE_STEPS:
        middle = _middle(problem, model, (left - for_confirmation) // (_MIDDLE_STEPS - last))
        if middle is not None:
            return middle
    return _confirmation(problem, model, left)


def pictures_drawn(evaluated: Sequence[Evaluated]) -> int:
    """Pictures that these evaluations drew. A point with more pictures of the same seed continues those it has."""
    largest: dict[tuple[Point, int], int] = {}
    for one in evaluated:
        key = one.point, one.seed
        largest[key] = max(largest.get(key, 0), one.num_samples)
    return sum(largest.values())


def _observations(problem: SearchProblem, evaluated: Sequence[Evaluated]) -> list[Observation]:
    """Those with figures, as the model takes them. Raises SearchFailed.

    Points that differ only in what guides, without guidance, are one point.
    """
    found: dict[tuple[tuple[float, ...], tuple[int, int]], Observation] = {}
    sign = 1 if problem.better == "lower" else -1
    for one in evaluated:
        if one.figure is not None:
            position = tuple(map(float, problem.space.to_unit([one.point])[0]))
            value = FigureValue(
                sign * one.figure.value, one.figure.standard_error, tuple(sign * r for r in one.figure.replicates)
            )
            observation = Observation(position, one.num_samples, one.seed, value)
            found.setdefault((position, observation.level), observation)
    first = [o for o in found.values() if o.seed == problem.seed]
    if len(first) < 3:
        raise SearchFailed(f"only {len(first)} of {len(evaluated)} points have a figure; a search needs at least 3")
    return list(found.values())


def _first(problem: SearchProblem) -> Evaluate:
    fewest, most = _FIRST_POINTS[problem.space.dimensions]
    share = int(_FIRST_SHARE * problem.budget)
    count = min(max(share // problem.pictures, fewest), most)
    pictures = min(max(share // count, problem.pictures), problem.most)
    points = problem.space.design(count)
    return Evaluate(tuple(points), pictures, problem.seed, "a first look at the whole range")


def _middle(problem: SearchProblem, model: CurveModel, budget: int) -> Evaluate | None:
    """New points, or more pictures for known ones: whichever the model expects to gain more per picture.

    None if the budget suffices for neither.
    """
    space = problem.space
    centre, minima = _minima(space, model, problem.seed)
    options = [*_new_points(problem, model, minima, budget), *_more_pictures(problem, model, centre, budget)]
    if not options:
        return None
    targets = np.concatenate([centre[None], representatives(minima, 24, centre)])
    now = _doubt(model, targets)
    gains = [(now - _doubt(model, targets, _planned(space, option))) / cost for option, cost in options]
    return options[int(np.argmax(gains))][0]


def _doubt(model: CurveModel, targets: FloatArray, more: Sequence[Observation] = ()) -> float:
    """Mean variance of the difference between the first of `targets` and the others."""
    belief = model.belief(targets, more)
    variances = np.diagonal(belief.covariances, axis1=1, axis2=2)
    return float(np.mean(variances + variances[:, [0]] - 2 * belief.covariances[:, 0]))


def _new_points(
    problem: SearchProblem, model: CurveModel, minima: FloatArray, budget: int
) -> list[tuple[Evaluate, int]]:
    """New points with as many pictures as those of the first step, and the number of pictures this draws."""
    base = min(o.num_samples for o in model.observations if o.seed == problem.seed)
    count = budget // base
    known = np.array([o.position for o in model.observations])
    points: list[Point] = []
    for position in representatives(minima, 4 * count, minima.mean(axis=0)) if count else []:
        if np.linalg.norm(known - position, axis=1).min() >= _DISTINCT and len(points) < count:
            points.append(problem.space.from_unit(position))
            known = np.concatenate([known, position[None]])
    points = list(dict.fromkeys(points))
    if not points:
        return []
    step = Evaluate(tuple(points), base, problem.seed, "new points where the minimum may be")
    return [(step, len(points) * base)]


def _more_pictures(
    problem: SearchProblem, model: CurveModel, centre: FloatArray, budget: int
) -> list[tuple[Evaluate, int]]:
    """For the best few known points: raise their numbers of pictures to the same number, as far as possible.

    Few, since errors at neighbouring points are alike: only more pictures at a point make it more certain.
    """
    drawn: dict[tuple[float, ...], int] = {}
    for o in model.observations:
        if o.seed == problem.seed:
            drawn[o.position] = max(drawn.get(o.position, 0), o.num_samples)
    positions = list(drawn)
    belief = model.belief(np.concatenate([centre[None], np.array(positions)]))
    best = np.argsort(belief.mean[1:], kind="stable")
    options = []
    fewest = problem.space.dimensions + 2
    for count in range(fewest, min(fewest + 1, len(best)) + 1):
        chosen = [positions[i] for i in best[:count]]
        have = [drawn[position] for position in chosen]
        pictures = min((budget + sum(have)) // count, problem.most)
        if pictures <= max(have) * 1.2:
            continue
        points = tuple(problem.space.from_unit(np.array(position)) for position in chosen)
        step = Evaluate(points, pictures, problem.seed, "more pictures for the points that decide")
        options.append((step, count * pictures - sum(have)))
    return options


def _confirmation(problem: SearchProblem, model: CurveModel, budget: int) -> Evaluate:
    """The best point and its rivals, on fresh seeds."""
    space = problem.space
    centre, minima = _minima(space, model, problem.seed)
    points = [space.from_unit(centre)]
    for position in representatives(minima, 4 * _CONFIRMED_POINTS[space.dimensions], centre):
        apart = np.linalg.norm(space.to_unit(points) - position, axis=1).min() >= _DISTINCT
        if apart and len(points) < _CONFIRMED_POINTS[space.dimensions]:
            points.append(space.from_unit(position))
    if len(points) == 1:
        # The minimum is certain. The nearest known point shows how much better it is.
        known = np.array([o.position for o in model.observations])
        away = np.linalg.norm(known - centre, axis=1)
        points.append(space.from_unit(known[np.where(away >= _DISTINCT, away, np.inf).argmin()]))
    pictures = min(budget // len(points), problem.most)
    return Evaluate(tuple(points), pictures, problem.fresh_seed, "confirmation on fresh seeds")


def _minima(space: SearchSpace, model: CurveModel, seed: int) -> tuple[FloatArray, FloatArray]:
    """(position of the lowest mean, [n, dimensions] samples of the position of the minimum)."""
    candidates = space.candidates()
    centre = candidates[model.belief(candidates).mean.argmin()]
    if space.dimensions > 1:
        candidates = space.candidates(centre)
    belief = model.belief(candidates)
    return candidates[belief.mean.argmin()], candidates[belief.minima(_SAMPLES, seed)]


def representatives(samples: FloatArray, count: int, centre: FloatArray) -> FloatArray:
    """[at most count, dimensions]: samples that are far from each other and from `centre`, the farthest first.

    The tenth of the samples that is farthest from `centre` is left out.
    """
    away = np.linalg.norm(samples - centre, axis=1)
    kept = samples[away <= np.quantile(away, 0.9)]
    distance = np.linalg.norm(kept - centre, axis=1)
    chosen: list[NDArray[np.float64]] = []
    while len(chosen) < count and distance.max() > 0:
        chosen.append(kept[int(distance.argmax())])
        distance = np.minimum(distance, np.linalg.norm(kept - chosen[-1], axis=1))
    return np.array(chosen).reshape(-1, samples.shape[1])


def _planned(space: SearchSpace, step: Evaluate) -> list[Observation]:
    """The observations that a step would add."""
    nothing = FigureValue(0.0)
    return [
        Observation(tuple(map(float, row)), step.num_samples, step.seed, nothing) for row in space.to_unit(step.points)
    ]
