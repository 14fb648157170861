"""Searches of curves that are known, with pictures whose errors are like those of real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from phema.shared.metrics.figures import FigureValue, difference
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_space import Axis, Point
from phema.shared.studies.search_steps import (
    BudgetTooSmall,
    Evaluate,
    Evaluated,
    SearchFailed,
    next_step,
    pictures_drawn,
)
from tests.studies.simulated_figures import SimulatedFigures, digits, falling, problem_of, run_search, steep

RANGE = Axis("sigma_rel", 0.01, 0.2)
WIDE = Axis("sigma_rel", 0.01, 0.25)
GUIDANCE = Axis("guidance", 1.0, 3.0, logarithmic=False)
GUIDE = Axis("guide.sigma_rel", 0.02, 0.25)
WORLDS = range(8)


@pytest.mark.parametrize(("curve", "optimum"), [(digits, 0.05), (steep, 0.06)])
def test_the_answer_is_within_the_error_of_a_dense_grid_with_five_times_as_many_pictures(
    curve: Callable[[float], float], optimum: float
) -> None:
    problem = problem_of(RANGE)
    covered = 0
    for world in WORLDS:
        figures = SimulatedFigures(curve, world)
        answer, evaluated = run_search(problem, figures)
        assert answer.pictures == pictures_drawn(evaluated) <= 4000
        grid = {x: figures((float(x),), 1250, 0) for x in np.geomspace(0.01, 0.2, 16)}
        best = min(grid, key=lambda x: grid[x].value)
        error = difference(figures(answer.point, 1250, 0), grid[best])[1] or 0.0
        assert curve(answer.point[0]) - curve(best) < 2 * error + 1e-9, world
        covered += answer.interval[0][0] <= optimum <= answer.interval[0][1]
    assert covered >= 7


def test_a_steep_curve_has_a_narrow_interval_and_few_rivals() -> None:
    answer, evaluated = run_search(problem_of(RANGE), SimulatedFigures(steep))
    low, high = answer.interval[0]
    assert 0.045 < low < answer.point[0] < high < 0.08
    assert (answer.edges, answer.open_ends) == ((None,), ((),))
    assert len(answer.indistinguishable) <= 3 < len({one.point for one in evaluated})
    truth = [steep(one.point[0]) - steep(answer.point[0]) for one in answer.curve]
    near = [i for i, one in enumerate(answer.curve) if 0.03 < one.point[0] < 0.12]
    misses = [abs(answer.curve[i].difference - truth[i]) / answer.curve[i].difference_error for i in near]
    assert max(misses) < 4


def test_a_flat_curve_leaves_everything_open() -> None:
    answer, evaluated = run_search(problem_of(RANGE), SimulatedFigures(lambda sigma_rel: 1.0))
    low, high = answer.interval[0]
    assert high / low > 5
    assert len(answer.indistinguishable) > 0.6 * len({one.point for one in evaluated})


@pytest.mark.parametrize("sign", [1, -1])
def test_an_optimum_at_the_edge_is_stated(sign: int) -> None:
    curve = SimulatedFigures(lambda sigma_rel: sign * falling(sigma_rel))
    answer, _ = run_search(problem_of(WIDE), curve)
    assert answer.point[0] == (0.25 if sign == 1 else 0.01)
    assert answer.edges == ("high" if sign == 1 else "low",)
    assert answer.open_ends == ((answer.edges[0],),)


def test_higher_is_better_mirrors_lower_is_better() -> None:
    figures = SimulatedFigures(digits)

    def mirrored(point: Point, num_samples: int, seed: int) -> FigureValue:
        value = figures(point, num_samples, seed)
        return FigureValue(-value.value, value.standard_error, tuple(-r for r in value.replicates))

    lower, _ = run_search(problem_of(RANGE), figures)
    higher, _ = run_search(problem_of(RANGE, better="higher"), mirrored)
    assert (higher.point, higher.interval, higher.value) == (lower.point, lower.interval, -lower.value)
    assert [one.value for one in higher.curve] == [-one.value for one in lower.curve]


def test_the_answers_value_is_from_fresh_seeds_and_all_points_of_a_step_are_comparable() -> None:
    problem = problem_of(RANGE)
    answer, evaluated = run_search(problem, SimulatedFigures(digits))
    before = [one for one in evaluated if one.seed == problem.seed]
    assert max(one.seed + one.num_samples for one in before) <= answer.seed
    for step in {one.step for one in evaluated}:
        assert len({(one.num_samples, one.seed) for one in evaluated if one.step == step}) == 1
    confirmed = next(one for one in evaluated if one.seed == answer.seed and one.point == answer.point)
    assert confirmed.figure is not None
    assert (answer.value, answer.num_samples) == (confirmed.figure.value, confirmed.num_samples)


def test_killed_between_any_two_steps_it_gives_the_same_answer() -> None:
    problem, figures = problem_of(RANGE), SimulatedFigures(steep)
    answer, evaluated = run_search(problem, figures)
    for step in range(max(one.step for one in evaluated) + 1):
        # Rows come back in another order, and the numbers have been through JSON.
        rest = [one for one in reversed(evaluated) if one.step <= step]
        following = next_step(problem, rest)
        expected = [one for one in evaluated if one.step == step + 1]
        if not expected:
            assert following == answer
            continue
        assert isinstance(following, Evaluate)
        assert list(following.points) == [one.point for one in expected]
        assert following.num_samples == expected[0].num_samples


def test_guidance_and_length_are_searched_together() -> None:
    def curve(sigma_rel: float, guidance: float) -> float:
        return 1 + math.log(sigma_rel / 0.08) ** 2 + (guidance - 1.6) ** 2

    answer, evaluated = run_search(problem_of(WIDE, GUIDANCE, budget=6000), SimulatedFigures(curve))
    assert pictures_drawn(evaluated) <= 6000
    assert curve(*answer.point) < 1.05
    (low, high), (least, most) = answer.interval
    assert low < 0.08 < high
    assert least < 1.6 < most
    assert len(answer.curve) == 2 * 41


def test_three_axes() -> None:
    def curve(sigma_rel: float, guide: float, guidance: float) -> float:
        return 1 + math.log(sigma_rel / 0.08) ** 2 + 0.3 * math.log(guide / 0.12) ** 2 + (guidance - 1.6) ** 2

    answer, evaluated = run_search(problem_of(WIDE, GUIDE, GUIDANCE, budget=10_000), SimulatedFigures(curve))
    assert pictures_drawn(evaluated) <= 10_000
    assert curve(*answer.point) < 1.1


@pytest.mark.parametrize("lost", [3, 5])
def test_points_that_fail_are_passed_over(lost: int) -> None:
    figures, calls = SimulatedFigures(steep), iter(range(1000))

    def failing(*request: Any) -> FigureValue | None:
        return None if next(calls) % lost == 0 else figures(*request)

    answer, _ = run_search(problem_of(RANGE), failing)
    assert steep(answer.point[0]) < 2.1


def test_a_confirmation_that_fails_leaves_the_answer_of_the_earlier_steps() -> None:
    problem, figures = problem_of(RANGE), SimulatedFigures(steep)

    def unconfirmed(point: Point, num_samples: int, seed: int) -> FigureValue | None:
        return None if seed == problem.fresh_seed else figures(point, num_samples, seed)

    answer, _ = run_search(problem, unconfirmed)
    assert answer.seed == problem.seed
    assert steep(answer.point[0]) < 2.1


def test_figures_without_errors_are_believed() -> None:
    def exact(point: Point, num_samples: int, seed: int) -> FigureValue:
        return FigureValue(steep(point[0]))

    answer, _ = run_search(problem_of(RANGE), exact)
    assert steep(answer.point[0]) < 2.01
    assert answer.standard_error is None


def test_a_search_without_figures_fails() -> None:
    problem = problem_of(RANGE)
    first = next_step(problem, [])
    assert isinstance(first, Evaluate)
    failed = [Evaluated(0, point, first.num_samples, first.seed, None) for point in first.points]
    with pytest.raises(SearchFailed, match="only 0 of 5 points have a figure; a search needs at least 3"):
        next_step(problem, failed)


@pytest.mark.parametrize(("axes", "smallest"), [((RANGE,), 480), ((RANGE, GUIDANCE), 641)])
def test_the_smallest_budget_is_named_and_suffices(axes: tuple[Axis, ...], smallest: int) -> None:
    with pytest.raises(BudgetTooSmall, match=f"budget is 100 pictures; this search needs at least {smallest}") as error:
        next_step(problem_of(*axes, budget=100), [])
    assert error.value.smallest == smallest
    with pytest.raises(BudgetTooSmall):
        problem_of(*axes, budget=smallest - 1).check()
    answer, evaluated = run_search(problem_of(*axes, budget=smallest), SimulatedFigures(lambda *point: sum(point)))
    assert isinstance(answer, Answer)
    assert pictures_drawn(evaluated) <= smallest
    assert min(one.num_samples for one in evaluated) >= 64


def test_more_pictures_of_a_point_continue_those_it_has() -> None:
    none = FigureValue(0.0)
    evaluated = [
        Evaluated(0, (0.1,), 100, 0, none),
        Evaluated(1, (0.1,), 250, 0, none),
        Evaluated(2, (0.1,), 50, 9, none),
        Evaluated(0, (0.2,), 100, 0, none),
    ]
    assert pictures_drawn(evaluated) == 250 + 50 + 100
