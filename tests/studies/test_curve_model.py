"""The model of a search: its noise against the simulated one, its errors against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from phema.shared.metrics.figures import FigureValue
from phema.shared.studies.curve_model import CurveModel
from phema.shared.studies.sampling_noise import Observation, sampling_noise
from phema.shared.studies.search_space import Axis, SearchSpace, low_discrepancy
from tests.studies.simulated_figures import SimulatedFigures, digits, steep

SPACE = SearchSpace((Axis("sigma_rel", 0.01, 0.2),))
WIDTHS = (0.01, 0.02, 0.04, 0.08, 0.12, 0.2)


def observed(figures: SimulatedFigures, num_samples: int, seed: int = 0, scale: float = 1.0) -> list[Observation]:
    found = []
    for width in WIDTHS:
        value = figures((width,), num_samples, seed)
        scaled = FigureValue(
            scale * value.value, scale * (value.standard_error or 0.0), tuple(scale * r for r in value.replicates)
        )
        position = tuple(map(float, SPACE.to_unit([(width,)])[0]))
        found.append(Observation(position, num_samples, seed, scaled))
    return found


def test_the_noise_of_differences_is_that_of_the_world() -> None:
    """Variance of one picture's difference between two lengths: 0.4² |slope - slope'|² + 2 · 0.3²."""

    def slope(width: float) -> np.ndarray:
        position = math.log(width) + 3
        return np.array([position, 0.5 * math.sin(2 * position), 0.5 * math.cos(2 * position)])

    truth, found = [], []
    for world in range(10):
        observations = observed(SimulatedFigures(digits, world), 400)
        covariance = sampling_noise(observations).covariance(observations, observations) * 400
        for i in range(len(WIDTHS)):
            for j in range(i):
                found.append(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
                truth.append(0.16 * float(np.sum((slope(WIDTHS[i]) - slope(WIDTHS[j])) ** 2)) + 0.18)
    ratios = np.mean(np.reshape(found, (10, -1)), axis=0) / np.array(truth[: len(found) // 10])
    assert ratios.min() > 0.6
    assert ratios.max() < 1.6


def test_pictures_that_are_shared_have_shared_errors() -> None:
    few = observed(SimulatedFigures(digits), 100)
    many = observed(SimulatedFigures(digits), 400)
    fresh = observed(SimulatedFigures(digits), 400, seed=5000)
    noise = sampling_noise(few)
    assert noise.covariance(few, many) == pytest.approx(noise.covariance(many, many))
    assert noise.covariance(few, few) == pytest.approx(4 * noise.covariance(many, many))
    assert not noise.covariance(many, fresh).any()


@pytest.mark.parametrize(("curve", "least"), [(digits, 0.5), (steep, 0.0)])
def test_errors_of_differences_are_as_large_as_stated(curve: Callable[[float], float], least: float) -> None:
    """Between the points of a steep curve the model cannot know the curve, and says so."""
    places = SPACE.to_unit([(0.05,), (0.02,), (0.08,), (0.12,)])
    scores = []
    for world in range(15):
        figures = SimulatedFigures(curve, world)
        model = CurveModel([*observed(figures, 300), *observed(figures, 300, seed=9000)])
        belief = model.belief(places)
        truth = np.array([curve(SPACE.from_unit(place)[0]) for place in places])
        misses = belief.mean - belief.mean[0] - (truth - truth[0])
        scores.append(misses[1:] / belief.difference_error(0)[1:])
    rms = float(np.sqrt(np.mean(np.square(scores))))
    assert least < rms < 1.5


def test_the_model_does_not_depend_on_the_unit_or_on_an_offset_of_a_level() -> None:
    figures = SimulatedFigures(digits)
    places = SPACE.candidates()[::20]
    plain = CurveModel([*observed(figures, 300), *observed(figures, 500, seed=9000)]).belief(places)
    scaled = CurveModel([*observed(figures, 300, scale=1e6), *observed(figures, 500, seed=9000, scale=1e6)]).belief(
        places
    )
    assert scaled.mean - scaled.mean[0] == pytest.approx(1e6 * (plain.mean - plain.mean[0]), rel=1e-6)
    shifted = [
        Observation(o.position, o.num_samples, o.seed, FigureValue(o.figure.value + 30, None, replicates))
        for o in observed(figures, 500, seed=9000)
        for replicates in [tuple(r + 30 for r in o.figure.replicates)]
    ]
    moved = CurveModel([*observed(figures, 300), *shifted]).belief(places)
    assert moved.mean - moved.mean[0] == pytest.approx(plain.mean - plain.mean[0], abs=1e-6)


def test_planned_pictures_make_the_model_more_certain_before_they_are_drawn() -> None:
    model = CurveModel(observed(SimulatedFigures(digits), 200))
    places = SPACE.to_unit([(0.04,), (0.12,)])
    now = model.belief(places).difference_error(0)[1]
    planned = [Observation(o.position, 800, o.seed, FigureValue(0.0)) for o in model.observations]
    variances = model.belief(places, planned).covariances
    after = float(np.sqrt(np.mean(variances[:, 0, 0] + variances[:, 1, 1] - 2 * variances[:, 0, 1])))
    assert 0.3 * now < after < 0.8 * now


def test_points_have_three_digits_and_exact_ends() -> None:
    axis = Axis("sigma_rel", 0.0123456, 0.2345678)
    assert (axis.from_unit(0.0), axis.from_unit(1.0)) == (0.0123456, 0.2345678)
    assert axis.from_unit(0.5) == pytest.approx(math.sqrt(0.0123456 * 0.2345678), rel=5e-3)
    assert len(f"{axis.from_unit(0.5):g}") == len("0.0538")
    guidance = Axis("guidance", 1, 4, logarithmic=False)
    assert guidance.from_unit(0.5) == 2.5
    assert guidance.to_unit(np.array([2.5])) == pytest.approx([0.5])


def test_a_design_covers_the_space() -> None:
    assert [p[0] for p in SPACE.design(3)] == [0.01, 0.0447, 0.2]
    points = low_discrepancy(64, 3)
    quarters = {tuple((row * 2).astype(int)) for row in points}
    assert len(quarters) == 8
