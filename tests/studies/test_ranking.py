"""Which point is best, and which points it cannot be told from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phema.shared.metrics.figures import FigureValue, mean_of
from phema.shared.studies.ranking import ScoredPoint, rank


def scored(
    number: int, value: FigureValue, *, seed: int = 0, num_samples: int = 1000, **coordinates: Any
) -> ScoredPoint:
    return ScoredPoint(number, value, seed, num_samples, coordinates)


def noisy(level: float, shared: np.ndarray, own: float, seed: int) -> FigureValue:
    """A mean over pictures with noise that points share, and noise of its own."""
    generator = np.random.default_rng(seed)
    return mean_of(level + shared + own * generator.standard_normal(len(shared)))


def test_common_random_numbers_decide_what_single_errors_cannot() -> None:
    shared = np.random.default_rng(0).standard_normal(1000)
    values = [noisy(level, shared, 0.01, i) for i, level in enumerate((0.50, 0.51, 0.5001))]
    assert values[0].standard_error == pytest.approx(1000**-0.5, rel=0.5), "each alone: far above the difference"
    found = rank([scored(i, value) for i, value in enumerate(values)], "lower")
    assert found is not None
    near = {found.best.number, *found.indistinct}
    assert near == {0, 2}
    difference = found.comparisons[1]
    assert difference.difference == pytest.approx(0.01, abs=0.002)
    assert difference.standard_error == pytest.approx(0.01 * 2**0.5 / 1000**0.5, rel=0.5)


def test_other_seeds_are_compared_as_independent() -> None:
    shared = np.random.default_rng(0).standard_normal(1000)
    points = [scored(i, noisy(0.5 + 0.01 * i, shared, 0.01, i), seed=i) for i in range(2)]
    found = rank(points, "lower")
    assert found is not None
    errors = [point.value.standard_error or 0.0 for point in points]
    assert found.comparisons[1].standard_error == pytest.approx(np.hypot(*errors))
    assert found.indistinct == [1]


def test_higher_may_be_better_and_differences_count_what_is_worse() -> None:
    found = rank([scored(0, FigureValue(0.3, 0.01)), scored(1, FigureValue(0.9, 0.01))], "higher")
    assert found is not None
    assert (found.best.number, found.comparisons[0].difference) == (1, pytest.approx(0.6))
    assert found.indistinct == []


def test_without_errors_nothing_is_decided() -> None:
    found = rank([scored(0, FigureValue(0.3)), scored(1, FigureValue(0.9))], "lower")
    assert found is not None
    assert found.comparisons[1].decided is None
    assert found.indistinct == []


def test_only_the_largest_number_of_pictures_is_ranked() -> None:
    found = rank([scored(0, FigureValue(0.1), num_samples=100), scored(1, FigureValue(0.9))], "lower")
    assert found is not None
    assert found.best.number == 1
    assert found.comparisons == {}


@pytest.mark.parametrize(("best", "edges"), [(0, {"sigma_rel": "lowest"}), (1, {}), (2, {"sigma_rel": "highest"})])
def test_the_edge_of_the_range_is_stated(best: int, edges: dict[str, str]) -> None:
    widths = (0.05, 0.1, 0.2)
    points = [
        scored(i, FigureValue(0.0 if i == best else 1.0), sigma_rel=width, num_images=640, guidance=1.0)
        for i, width in enumerate(widths)
    ]
    found = rank(points, "lower")
    assert found is not None
    assert found.edges == edges


def test_no_points_have_no_ranking() -> None:
    assert rank([], "lower") is None
