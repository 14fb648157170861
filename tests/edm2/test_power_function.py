from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phema.shared.edm2.averaging.power_function import (
    SIGMA_REL_LIMIT,
    PowerFunctionError,
    beta,
    gamma_from_sigma_rel,
    sigma_rel_from_gamma,
)

# sigma_rel: gamma to two decimals, as published.
TABLE = {
    0.01: 96.99, 0.015: 63.66, 0.03: 30.32, 0.05: 16.97, 0.075: 10.29,
    0.10: 6.94, 0.13: 4.60, 0.15: 3.56, 0.20: 1.83, 0.25: 0.72,
}  # fmt: skip


def exact_gamma(sigma_rel: float) -> float:
    """The root to 40 digits, by Newton's iteration from above."""
    with localcontext() as context:
        context.prec = 60
        s = Decimal(sigma_rel) ** -2
        gamma = 1 / Decimal(sigma_rel) + 10
        for _ in range(60):
            value = gamma**3 + 7 * gamma**2 + (16 - s) * gamma + (12 - s)
            gamma -= value / (3 * gamma**2 + 14 * gamma + (16 - s))
        return float(gamma)


@pytest.mark.parametrize(("sigma_rel", "gamma"), TABLE.items())
def test_table(sigma_rel: float, gamma: float) -> None:
    assert round(gamma_from_sigma_rel(sigma_rel), 2) == gamma
    assert gamma_from_sigma_rel(sigma_rel) == pytest.approx(exact_gamma(sigma_rel), rel=1e-12)
    assert sigma_rel_from_gamma(gamma_from_sigma_rel(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-12)


def test_ramped_exponential_averages_are_power_functions() -> None:
    """A half-life of r t is gamma = ln 2 / r - 1; the two ratios EDM uses."""
    assert sigma_rel_from_gamma(math.log(2) / 0.05 - 1) == pytest.approx(0.063, abs=5e-4)
    assert sigma_rel_from_gamma(math.log(2) / 0.09 - 1) == pytest.approx(0.102, abs=5e-4)


@given(st.floats(1e-3, SIGMA_REL_LIMIT * (1 - 1e-9)))
def test_width_survives_the_round_trip(sigma_rel: float) -> None:
    gamma = gamma_from_sigma_rel(sigma_rel)
    assert sigma_rel_from_gamma(gamma) == pytest.approx(sigma_rel, rel=1e-12)
    assert gamma == pytest.approx(exact_gamma(sigma_rel), rel=1e-12, abs=1e-12)


@given(st.floats(1e-6, 1e3))
def test_exponent_survives_the_round_trip(gamma: float) -> None:
    assert gamma_from_sigma_rel(sigma_rel_from_gamma(gamma)) == pytest.approx(gamma, rel=1e-12, abs=1e-12)


@given(st.floats(2e-3, 0.288), st.floats(2e-3, 0.288))
def test_longer_averages_have_smaller_exponents(a: float, b: float) -> None:
    if a < b:
        assert gamma_from_sigma_rel(a) > gamma_from_sigma_rel(b)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.13, 0.25])
def test_width_is_the_standard_deviation_of_the_density(sigma_rel: float) -> None:
    gamma = gamma_from_sigma_rel(sigma_rel)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, w = (nodes + 1) / 2, weights / 2
    density = (gamma + 1) * t**gamma
    mean = (w * density * t).sum()
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-9)
    assert math.sqrt((w * density * (t - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-6)


@given(
    st.floats(0.01, 0.28),
    st.lists(st.integers(1, 4096), min_size=1, max_size=60),
)
def test_recursion_is_the_integral_over_the_profile(sigma_rel: float, deltas: list[int]) -> None:
    """Weights held over (t_{i-1}, t_i] enter with the profile's mass there, whatever the batch sizes."""
    gamma = gamma_from_sigma_rel(sigma_rel)
    shares = np.zeros(len(deltas))
    seen = 0
    for i, delta in enumerate(deltas):
        seen += delta
        b = beta(gamma, seen, delta)
        shares *= b
        shares[i] = 1 - b
    edges = np.concatenate([[0], np.cumsum(deltas)]) / seen
    np.testing.assert_allclose(shares, np.diff(edges ** (gamma + 1)), rtol=1e-9, atol=1e-13)
    assert shares.sum() == pytest.approx(1, abs=1e-12)


def test_first_step_forgets_the_start() -> None:
    assert beta(6.94, 2048, 2048) == 0


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, SIGMA_REL_LIMIT, 0.5, float("nan"), float("inf")])
def test_impossible_width(sigma_rel: float) -> None:
    with pytest.raises(PowerFunctionError, match=r"sigma_rel .* must lie strictly between 0 and"):
        gamma_from_sigma_rel(sigma_rel)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_exponent(gamma: float) -> None:
    with pytest.raises(PowerFunctionError, match="gamma"):
        sigma_rel_from_gamma(gamma)


@pytest.mark.parametrize(("seen", "delta"), [(64, 0), (64, -1), (64, 128)])
def test_impossible_step(seen: int, delta: int) -> None:
    with pytest.raises(PowerFunctionError, match="delta_images"):
        beta(6.94, seen, delta)
