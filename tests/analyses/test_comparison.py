"""Which values cannot be told from the best."""

from __future__ import annotations

import pytest

from phema.shared.analyses.comparison import compare
from phema.shared.metrics.figures import FigureValue
from tests.analyses.points import value


def test_common_noise_does_not_hide_a_difference() -> None:
    # Each value alone has an error of about 0.6; the blocks differ from each other in the same way.
    noise = (0.001, -0.001, 0.0005, 0.0, -0.0005)
    best, tied, worse = compare([value(0.40), value(0.401, *noise), value(0.42, *noise)], "lower")
    assert best.is_best
    assert best.tied
    assert best.value.standard_error is not None
    assert best.value.standard_error > 0.3
    assert (tied.tied, worse.tied) == (True, False)
    assert tied.difference == pytest.approx(0.001)
    # Jackknife of the paired differences: sqrt(4/5 * sum of squares about their mean).
    assert tied.difference_error == pytest.approx((0.8 * 2.5e-6) ** 0.5)


def test_without_common_seeds_errors_add_up() -> None:
    best, other = compare([FigureValue(1.0, 0.3), FigureValue(1.9, 0.4)], "lower")
    assert other.difference_error == pytest.approx(0.5)
    assert other.tied
    assert best.difference == 0


def test_higher_may_be_better() -> None:
    low, high = compare([FigureValue(0.2, 0.01), FigureValue(0.9, 0.01)], "higher")
    assert high.is_best
    assert low.difference == pytest.approx(-0.7)
    assert not low.tied


def test_unknown_errors_tie_nothing_but_equal_values() -> None:
    _, equal, worse = compare([FigureValue(1.0), FigureValue(1.0), FigureValue(1.1)], "lower")
    assert equal.tied
    assert not worse.tied
    assert worse.difference_error is None
    assert compare([], "lower") == []
