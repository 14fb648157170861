from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phema.shared.edm2.averaging.inner_products import inner_product
from phema.shared.edm2.averaging.posthoc import PosthocError, gram, solve
from phema.shared.edm2.averaging.weightings import PowerWeighting

T = 2**31
SIGMA_RELS = st.floats(0.01, 0.28)
TIMES = st.integers(1, 2**31)


def snapshots(n: int, widths: tuple[float, ...] = (0.05, 0.10), end: int = T) -> list[PowerWeighting]:
    """`n` evenly spaced times up to `end`, one snapshot per width at each."""
    return [PowerWeighting(end * i // n, width) for i in range(1, n + 1) for width in widths]


def quadrature(edges: list[int], nodes: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights on each interval between the profiles' jumps."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    starts, ends = np.array([0, *edges[:-1]], float), np.array(edges, float)
    half = (ends - starts)[:, None] / 2
    return (starts[:, None] + half * (x + 1)).ravel(), (half * w).ravel()


@given(SIGMA_RELS, SIGMA_RELS, TIMES, TIMES)
def test_inner_product_is_the_integral(s_a: float, s_b: float, t_a: int, t_b: int) -> None:
    a, b = PowerWeighting(t_a, s_a), PowerWeighting(t_b, s_b)
    t, w = quadrature([min(t_a, t_b)], nodes=200)
    assert inner_product(a, b) == pytest.approx((w * a.density(t) * b.density(t)).sum(), rel=1e-6)
    assert inner_product(a, b) == inner_product(b, a)


def test_nothing_overflows_for_short_profiles_at_distant_times() -> None:
    early, late = PowerWeighting(1, 0.001), PowerWeighting(2**40, 0.001)
    assert 0 <= inner_product(early, late) < 1e-200
    assert np.isfinite(gram([early, late])).all()


@pytest.mark.parametrize("sigma_rel", [0.02, 0.1, 0.28])
def test_density_integrates_to_one_and_ends_at_its_time(sigma_rel: float) -> None:
    profile = PowerWeighting(4096, sigma_rel)
    t, w = quadrature([4096], nodes=200)
    assert (w * profile.density(t)).sum() == pytest.approx(1, rel=1e-6)
    assert profile.density([-1.0, 0.0, 4096.5]).tolist() == [0, 0, 0]
    assert profile.density(4096) == pytest.approx((profile.gamma + 1) / 4096)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 32), st.data())
def test_stored_profile_reproduces_itself(n: int, data: st.DataObject) -> None:
    stored = snapshots(n)
    index = data.draw(st.integers(0, len(stored) - 1))
    solution = solve(stored, [stored[index]])
    np.testing.assert_allclose(solution.coefficients[0], np.eye(len(stored))[index], atol=1e-8)
    assert solution.profile_error[0] < 1e-7


@pytest.mark.parametrize("n", [4, 16, 64])
def test_predicted_error_is_the_distance_between_the_profiles(n: int) -> None:
    stored = snapshots(n)
    targets = [PowerWeighting(T, s) for s in (0.015, 0.07, 0.13, 0.25)]
    solution = solve(stored, targets)
    t, w = quadrature(sorted({p.num_images for p in stored}))
    basis = np.stack([p.density(t) for p in stored])
    for target, coefficients, predicted in zip(targets, solution.coefficients, solution.profile_error, strict=True):
        wanted = target.density(t)
        distance = np.sqrt((w * (coefficients @ basis - wanted) ** 2).sum() / (w * wanted**2).sum())
        assert predicted == pytest.approx(distance, rel=1e-4)


def test_no_other_combination_is_nearer() -> None:
    stored, target = snapshots(8), PowerWeighting(T, 0.13)
    best = solve(stored, [target])
    products, wanted = gram(stored), np.array([inner_product(p, target) for p in stored])

    def distance(c: np.ndarray) -> float:
        return float(1 + (c @ products @ c - 2 * c @ wanted) / inner_product(target, target))

    rng = np.random.default_rng(0)
    for _ in range(50):
        other = best.coefficients[0] + 1e-3 * rng.standard_normal(len(stored))
        assert distance(other) > best.profile_error[0] ** 2


# Squared relative profile errors of two averages (0.05, 0.10) at n evenly spaced times.
PUBLISHED = [
    (0.13, 8, 3.8e-4), (0.13, 16, 2.8e-5), (0.13, 32, 1.8e-6), (0.13, 64, 1.1e-7),
    (0.015, 32, 6e-3), (0.015, 64, 5e-4), (0.015, 128, 4e-5), (0.25, 64, 2e-4),
]  # fmt: skip


@pytest.mark.parametrize(("sigma_rel", "n", "squared"), PUBLISHED)
def test_errors_are_the_known_ones(sigma_rel: float, n: int, squared: float) -> None:
    error = solve(snapshots(n), [PowerWeighting(T, sigma_rel)]).profile_error[0]
    assert error**2 == pytest.approx(squared, rel=0.12)


@pytest.mark.parametrize(("width", "squared"), [(0.10, 1.4e-4), (0.05, 3.8e-3)])
def test_one_average_alone_is_worse(width: float, squared: float) -> None:
    error = solve(snapshots(64, (width,)), [PowerWeighting(T, 0.13)]).profile_error[0]
    assert error**2 == pytest.approx(squared, rel=0.05)


@pytest.mark.parametrize(("widths", "order"), [((0.05, 0.10), 4), ((0.10,), 2)])
def test_order_of_convergence(widths: tuple[float, ...], order: float) -> None:
    squared = [solve(snapshots(n, widths), [PowerWeighting(T, 0.13)]).profile_error[0] ** 2 for n in (16, 64)]
    assert np.log(squared[0] / squared[1]) / np.log(4) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("n", "condition"), [(16, 6e3), (32, 9e4), (64, 2e6), (128, 3e7), (256, 5e8)])
def test_condition_of_the_gram_matrix(n: int, condition: float) -> None:
    assert np.linalg.cond(gram(snapshots(n))) == pytest.approx(condition, rel=0.2)


@pytest.mark.parametrize(("width", "condition"), [(0.05, 2e3), (0.10, 4e3)])
def test_condition_with_one_average(width: float, condition: float) -> None:
    assert np.linalg.cond(gram(snapshots(128, (width,)))) == pytest.approx(condition, rel=0.2)


@pytest.mark.parametrize(("sigma_rel", "gain"), [(0.015, 38), (0.03, 6.3), (0.07, 0.92), (0.13, 0.88), (0.20, 0.57)])
def test_gain_of_rounding_noise(sigma_rel: float, gain: float) -> None:
    assert solve(snapshots(128), [PowerWeighting(T, sigma_rel)]).noise_gain[0] == pytest.approx(gain, rel=0.01)


def test_coefficients_sum_to_one_without_being_told() -> None:
    targets = [PowerWeighting(T, s) for s in (0.03, 0.07, 0.13, 0.20, 0.25)]
    sums = solve(snapshots(128), targets).coefficients.sum(axis=1)
    np.testing.assert_allclose(sums[:4], 1, atol=1.1e-5)
    assert abs(sums[4] - 1) == pytest.approx(6e-4, rel=0.1)


def test_time_between_snapshots_cannot_be_hit() -> None:
    stored = [p for p in snapshots(64) if p.num_images < T]
    aligned = solve(stored, [PowerWeighting(stored[-1].num_images, 0.13)]).profile_error[0]
    between = solve(stored, [PowerWeighting(stored[-1].num_images + T // 128, 0.13)]).profile_error[0]
    assert aligned < 1e-3 < 1e-1 < between


def test_answer_does_not_depend_on_the_unit_of_time_or_the_order() -> None:
    targets = [(0.13, 1.0), (0.07, 0.5)]
    large = solve(snapshots(16), [PowerWeighting(int(T * t), s) for s, t in targets])
    small = solve(snapshots(16, end=1024), [PowerWeighting(int(1024 * t), s) for s, t in targets])
    np.testing.assert_allclose(large.coefficients, small.coefficients, rtol=1e-7, atol=1e-9)
    backwards = solve(snapshots(16)[::-1], [PowerWeighting(int(T * t), s) for s, t in targets])
    np.testing.assert_allclose(backwards.coefficients[:, ::-1], large.coefficients, rtol=1e-7, atol=1e-9)


def test_many_targets_are_solved_as_each_alone() -> None:
    targets = [PowerWeighting(T, s) for s in (0.06, 0.13, 0.2)]
    together = solve(snapshots(32), targets)
    for i, target in enumerate(targets):
        alone = solve(snapshots(32), [target])
        np.testing.assert_allclose(together.coefficients[i], alone.coefficients[0], rtol=1e-9, atol=1e-11)


def test_profile_stored_twice_shares_its_coefficient() -> None:
    once = snapshots(16)
    twice = [*once, once[-1]]
    target = [PowerWeighting(T, 0.13)]
    expected, solution = solve(once, target), solve(twice, target)
    assert solution.profile_error[0] == pytest.approx(expected.profile_error[0], rel=1e-6)
    c = solution.coefficients[0]
    assert c[-1] == pytest.approx(c[-2], rel=1e-6)
    assert c[-1] + c[-2] == pytest.approx(expected.coefficients[0, -1], rel=1e-6)


@pytest.mark.parametrize(
    ("num_images", "sigma_rel", "message"),
    [(0, 0.1, "num_images 0 must be above 0"), (64, 0.0, "sigma_rel 0.0"), (64, 0.2887, "sigma_rel 0.2887")],
)
def test_impossible_profile(num_images: int, sigma_rel: float, message: str) -> None:
    with pytest.raises(PosthocError, match=message):
        PowerWeighting(num_images, sigma_rel)


def test_empty_problem() -> None:
    with pytest.raises(PosthocError, match="0 stored profiles and 1 targets"):
        solve([], [PowerWeighting(T, 0.1)])
    with pytest.raises(PosthocError, match="2 stored profiles and 0 targets"):
        solve(snapshots(1), [])
