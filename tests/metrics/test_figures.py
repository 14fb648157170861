"""Standard errors: the jackknife's formula, its agreement with the spread over seeds, and differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from phema.shared.metrics.figures import BLOCKS, FigureValue, blocks, covariance, difference, jackknifed, mean_of
from phema.shared.metrics.measures.frechet import frechet
from phema.shared.metrics.measures.frechet_infinity import frechet_infinity
from phema.shared.metrics.measures.kernel import kernel_distance
from phema.shared.metrics.measures.neighbours import density_and_coverage, precision_and_recall
from phema.shared.metrics.reference import Reference
from tests.metrics.features import reference_from

DIM, COUNT, REPETITIONS = 6, 600, 120


def drawn(seed: int, shift: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((COUNT, DIM)) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_from(np.random.default_rng(10_000).standard_normal((700, DIM)).astype(np.float32))


@pytest.mark.parametrize("count", [0, 3, 4, 7, 39, 40, 41, 1000, 1999])
def test_blocks_cover_all_pictures_in_order(count: int) -> None:
    found = blocks(count)
    assert len(found) == (0 if count < 4 else min(BLOCKS, count // 2))
    if found:
        assert np.concatenate([np.arange(count)[block] for block in found]).tolist() == list(range(count))
        sizes = [block.stop - block.start for block in found]
        assert max(sizes) - min(sizes) <= 1


def test_the_error_of_a_mean_is_known() -> None:
    """With blocks of equal size it is the standard deviation of the block means over the root of their number."""
    values = np.random.default_rng(0).standard_normal(1000)
    found = mean_of(values)
    means = values.reshape(BLOCKS, -1).mean(1)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / BLOCKS**0.5, rel=1e-10)
    assert len(found.replicates) == BLOCKS
    assert mean_of(values[:3]) == FigureValue(pytest.approx(values[:3].mean()), None, ())


def test_figures_survive_json() -> None:
    value = mean_of(np.arange(100.0) / 7)
    assert FigureValue.of(value.document()) == value


MEASURES: dict[str, Callable[[np.ndarray, Reference], FigureValue]] = {
    "frechet": frechet,
    "frechet_infinity": frechet_infinity,
    "kernel": kernel_distance,
    "precision": lambda x, r: precision_and_recall(x, r)[0],
    "density": lambda x, r: density_and_coverage(x, r)[0],
    "coverage": lambda x, r: density_and_coverage(x, r)[1],
    "recall": lambda x, r: precision_and_recall(x, r)[1],
}


@pytest.mark.parametrize("name", MEASURES)
def test_the_jackknife_error_is_the_spread_over_seeds(name: str, reference: Reference) -> None:
    """The root mean square of the errors of 60 seeds against the standard deviation of the values: each is known to
    about 10 %. Recall and coverage are not smooth in the pictures, so a jackknife overstates their error."""
    found = [MEASURES[name](drawn(seed), reference) for seed in range(REPETITIONS // 2)]
    spread = np.std([value.value for value in found], ddof=1)
    stated = np.sqrt(np.mean([float(value.standard_error or 0.0) ** 2 for value in found]))
    assert 0.75 < stated / spread < (1.9 if name in ("recall", "coverage") else 1.35)


def test_common_random_numbers_shrink_the_error_of_a_difference(reference: Reference) -> None:
    pairs = [(frechet(drawn(seed, 0.5), reference), frechet(drawn(seed, 0.52), reference)) for seed in range(40)]
    found = [difference(a, b) for a, b in pairs]
    spread = np.std([value for value, _ in found], ddof=1)
    stated = np.sqrt(np.mean([float(error or 0.0) ** 2 for _, error in found]))
    assert stated == pytest.approx(spread, rel=0.35)
    assert stated < 0.2 * np.hypot(*[float(value.standard_error or 0.0) for value in pairs[0]])
    assert all(value == a.value - b.value for (value, _), (a, b) in zip(found, pairs, strict=True))


def test_differences_without_common_blocks_are_independent() -> None:
    a, b = jackknifed(1.0, [0.9, 1.1, 1.0]), jackknifed(3.0, [2.9, 3.2])
    assert difference(a, b) == (-2.0, pytest.approx(np.hypot(a.standard_error or 0, b.standard_error or 0)))
    assert difference(a, FigureValue(2.0)) == (-1.0, None)
    assert difference(FigureValue(2.0), FigureValue(1.0)) == (1.0, None)
    assert difference(a, a) == (0.0, 0.0)


def test_the_covariance_agrees_with_errors_and_differences() -> None:
    values = np.random.default_rng(1).standard_normal((200, 3)) @ np.array([[1.0, 0.9, 0.0], [0, 0.4, 0], [0, 0, 2]])
    figures = [mean_of(column) for column in values.T]
    found = covariance([*figures, FigureValue(1.0, 0.5, ())])
    assert np.sqrt(np.diag(found)) == pytest.approx([*(figure.standard_error for figure in figures), 0.5])
    assert found[3, :3].tolist() == [0, 0, 0]
    variance = found[0, 0] + found[1, 1] - 2 * found[0, 1]
    assert difference(figures[0], figures[1])[1] == pytest.approx(variance**0.5)
    with pytest.raises(ValueError, match="no standard error"):
        covariance([figures[0], FigureValue(1.0)])
