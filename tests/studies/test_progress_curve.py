"""Brackets that follow the best EMA length, times that are due, and the stop rule."""

from __future__ import annotations

import pytest

from phema.shared.metrics.figures import FigureValue
from phema.shared.recipes.continuous_evaluation import ContinuousEvaluation
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import SIGMA_REL_LIMIT
from phema.shared.studies.progress_curve import CurvePoint, bracket, bracket_points, stop_sentence, times_to_evaluate

CONFIG = ContinuousEvaluation(every_snapshots=2, stop_after_images=12_800)
RUN = resolve("digits-tiny")


def curve(*values: float, error: float | None = None, replicates: int = 0) -> list[CurvePoint]:
    """Figures at 6,400, 12,800, … images."""
    return [
        CurvePoint(
            6400 * (i + 1), 0.1, "frechet", "lower", FigureValue(value, error, (value,) * replicates), "eval-1", {}
        )
        for i, value in enumerate(values)
    ]


def test_a_bracket_is_the_best_with_its_neighbours() -> None:
    assert bracket(CONFIG, None) == [0.07143, 0.1, 0.14]
    assert bracket(CONFIG, 0.14) == [0.1, 0.14, 0.196], "the same numbers again, on one grid"
    assert bracket(CONFIG, 0.07143) == [0.05102, 0.07143, 0.1]


def test_a_bracket_stays_where_averages_exist() -> None:
    widest = 0.1 * 1.4**3
    assert widest < SIGMA_REL_LIMIT < 0.1 * 1.4**4
    assert bracket(CONFIG, widest) == pytest.approx([0.196, 0.2744])
    narrow = ContinuousEvaluation(sigma_rel=0.006, factor=2.0)
    assert bracket(narrow, None) == pytest.approx([0.006, 0.012])


def test_points_of_one_time_draw_the_same_pictures() -> None:
    points = bracket_points("run-1", CONFIG, ("frechet",), 6400, None)
    assert len(points) == 3
    assert {str(point.recipe) for point in points} == {str(points[0].recipe)}
    assert points[0].recipe["metrics"] == ["frechet"]


def test_every_second_time_and_the_end_are_due() -> None:
    stored = range(3200, 76_801, 3200)
    assert times_to_evaluate(RUN, CONFIG, stored, 0)[:3] == [6400, 12_800, 19_200]
    assert times_to_evaluate(RUN, CONFIG, stored, 64_000) == [70_400, 76_800]
    odd = RUN.model_copy(update={"total_images": 9600})
    assert times_to_evaluate(odd, CONFIG, [3200, 6400, 9600], 0) == [6400, 9600]
    assert times_to_evaluate(RUN, CONFIG, [3200], 0) == []


def test_the_run_ends_when_nothing_has_improved_for_long_enough() -> None:
    assert stop_sentence(CONFIG, curve(0.5, 0.4, 0.45), 0) is None
    sentence = stop_sentence(CONFIG, curve(0.5, 0.4, 0.45, 0.41), 0)
    assert sentence == (
        "ended by evaluation.stop_after_images 12800: frechet has not improved since 12800 images, where it was 0.4 at "
        "sigma_rel 0.1"
    )


def test_a_gain_within_the_error_is_none() -> None:
    assert stop_sentence(CONFIG, curve(0.5, 0.499, 0.498, error=0.01), 0) is not None
    assert stop_sentence(CONFIG, curve(0.5, 0.499, 0.498, error=0.01, replicates=4), 0) is None, "paired, it is one"
    assert stop_sentence(CONFIG, curve(0.5, 0.48, 0.46, 0.44, error=0.01), 0) is None, "small gains add up"


def test_a_resumed_run_gets_the_whole_patience_again() -> None:
    stale = curve(0.4, 0.5, 0.5, 0.5)
    assert stop_sentence(CONFIG, stale, 0) is not None
    assert stop_sentence(CONFIG, stale, 19_200) is None
    assert stop_sentence(CONFIG, [*stale, *curve(*[0.5] * 5)[4:]], 19_200) is not None


def test_without_the_rule_nothing_ends() -> None:
    assert stop_sentence(ContinuousEvaluation(), curve(0.4, *[0.5] * 20), 0) is None
    assert stop_sentence(CONFIG, [], 0) is None
