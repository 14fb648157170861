"""Every kind of weighting: density, tail and inner products against integrals and against tracked averages."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from phema.shared.edm2.averaging.ema import TraditionalEMA
from phema.shared.edm2.averaging.inner_products import inner_product, inner_products
from phema.shared.edm2.averaging.weightings import (
    ExponentialWeighting,
    MixtureWeighting,
    PowerWeighting,
    RawWeighting,
    SampledWeighting,
    UniformWeighting,
    Weighting,
    WeightingError,
)

T = 2**23
KINDS: list[Weighting] = [
    PowerWeighting(T, 0.05),
    PowerWeighting(T // 3, 0.25),
    PowerWeighting(T // 2, 0.01),
    ExponentialWeighting(T, T / 50),
    ExponentialWeighting(T // 2, 3.0 * T),
    ExponentialWeighting(T, T / 40, rampup_ratio=0.05),
    ExponentialWeighting(T // 4, T, rampup_ratio=0.09),
    UniformWeighting(T, T // 10),
    UniformWeighting(T // 2, 2 * T),
    SampledWeighting(T, (T / 5, T / 2, T), (1.0, 0.0, 2.5)),
    SampledWeighting(T // 3, (T // 7, T // 3), (3.0, -1.0)),
    MixtureWeighting((PowerWeighting(T, 0.04), PowerWeighting(T, 0.2), UniformWeighting(T, T // 10)), (3.0, -2.0, 1.0)),
]


def integral(edges: np.ndarray, nodes: int = 24) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


@pytest.fixture(scope="module")
def rule() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on panels that end wherever a profile of KINDS jumps, and shrink towards each jump."""
    jumps = {0.0, T / 5, T / 2, float(T // 7), T / 40 / 0.05}
    jumps |= {float(p.num_images) for p in KINDS} | {T - T // 10.0}
    near = [j + side * T * 2.0**-k for j in jumps for k in range(1, 40) for side in (-1, 1)]
    return integral(np.unique([t for t in [*jumps, *near] if 0 <= t <= T]))


@pytest.mark.parametrize("pair", list(product(range(len(KINDS)), repeat=2)), ids=str)
def test_inner_products_are_integrals(pair: tuple[int, int], rule: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = KINDS[pair[0]], KINDS[pair[1]]
    t, w = rule
    expected = float((w * a.density(t) * b.density(t)).sum())
    assert inner_product(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12 * inner_product(a, a))
    assert inner_product(a, b) == pytest.approx(inner_product(b, a), rel=1e-12)


@pytest.mark.parametrize("profile", KINDS, ids=str)
def test_tails_are_integrals_of_densities(profile: Weighting, rule: tuple[np.ndarray, np.ndarray]) -> None:
    t, w = rule
    for threshold in (0.0, float(T // 4), T / 5, float(T // 2), float(T)):  # where panels end
        after = float((w * profile.density(t) * (t > threshold)).sum())
        assert profile.tail(threshold) == pytest.approx(after, rel=1e-9, abs=1e-10)


def test_what_is_missing_of_an_exponential_lies_on_the_initial_weights() -> None:
    assert ExponentialWeighting(100, 50).tail(0.0) == pytest.approx(1 - 0.25)
    assert ExponentialWeighting(100, 50, rampup_ratio=0.5).tail(0.0) == pytest.approx(1)


def test_a_ramped_up_average_is_a_power_function_until_its_limit() -> None:
    ramped = ExponentialWeighting(1000, 50, rampup_ratio=0.05)
    gamma = math.log(2) / 0.05 - 1
    t = np.linspace(1, 1000, 50)
    expected = (gamma + 1) / 1000 * (t / 1000) ** gamma
    np.testing.assert_allclose(ramped.density(t), expected, rtol=1e-12)


@pytest.mark.parametrize(("half_life", "ramp"), [(4096, None), (2048, 0.09), (10**9, 0.05)])
def test_densities_are_those_of_averages_that_were_kept(half_life: int, ramp: float | None) -> None:
    """Unit steps of a weight at each time, averaged as the trainer does: the response is the profile."""
    import torch

    steps, images = 2048, 8
    module = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.zero_()
    jump = 1500
    ema = TraditionalEMA(module, half_life, ramp)
    for step in range(1, steps + 1):
        if step == jump:
            with torch.no_grad():
                module.weight.fill_(1.0)
        ema.update(step * images, images)
    kept = float(next(iter(ema.tensors().values())))
    profile = ExponentialWeighting(steps * images, half_life, ramp)
    assert profile.tail((jump - 1) * images) == pytest.approx(kept, rel=2e-2)


def test_raw_weights_have_a_tail_and_no_inner_products() -> None:
    raw = RawWeighting(100)
    np.testing.assert_array_equal(raw.tail([0, 99, 100, 101]), [1, 1, 0, 0])
    with pytest.raises(WeightingError, match="raw weights have an impulse"):
        inner_products([raw], [raw])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialWeighting(10, 0), "half_life_images 0 must be above 0"),
        (lambda: ExponentialWeighting(10, 5, 0.7), "rampup_ratio 0.7 must lie between 0 and ln 2"),
        (lambda: UniformWeighting(10, 0), "window_images 0 must be above 0"),
        (lambda: SampledWeighting(10, (5.0, 9.0), (1.0, 1.0)), "times must rise from above 0 to num_images 10"),
        (lambda: SampledWeighting(10, (5.0, 10.0), (1.0,)), "weights must be 2 numbers"),
        (lambda: MixtureWeighting((PowerWeighting(9, 0.1), PowerWeighting(10, 0.1)), (1.0, 1.0)), "at the same time"),
        (lambda: MixtureWeighting((PowerWeighting(9, 0.1), RawWeighting(9)), (1.0, 1.0)), "cannot hold raw weights"),
        (lambda: MixtureWeighting((PowerWeighting(9, 0.1),), (-1.0,)), "1 numbers, one for each part, of positive sum"),
        (lambda: RawWeighting(0), "num_images 0 must be above 0"),
    ],
)
def test_impossible_profiles(make: object, message: str) -> None:
    with pytest.raises(WeightingError, match=message):
        make()  # type: ignore[operator]
