from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from phema.shared.metrics.moments import FrechetError, Moments, frechet_distance


def rows(mean: np.ndarray, cov: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly `mean` and `cov`."""
    x = np.random.default_rng(seed).standard_normal([count, len(mean)])
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1))).T
    return mean + x @ np.linalg.cholesky(cov).T


def random_cov(dim: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal([dim, 2 * dim])
    return a @ a.T / dim


def moments(x: np.ndarray) -> Moments:
    return Moments(x.shape[1]).add(x)


def test_one_dimension() -> None:
    """(m - n)^2 + (s - t)^2."""
    a = moments(rows(np.array([1.0]), np.array([[4.0]]), 50, 0))
    b = moments(rows(np.array([-2.0]), np.array([[0.25]]), 70, 1))
    assert frechet_distance(a, b) == pytest.approx(9 + 1.5**2, rel=1e-10)


def test_commuting_covariances() -> None:
    """Rotated diagonals: squared difference of means plus of the axes' standard deviations."""
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal([6, 6]))[0]
    s, t = np.linspace(0.1, 3, 6), np.linspace(2, 0.5, 6)
    mean = np.arange(6.0)
    a = moments(rows(mean, rotation @ np.diag(s**2) @ rotation.T, 100, 0))
    b = moments(rows(np.zeros(6), rotation @ np.diag(t**2) @ rotation.T, 80, 1))
    assert frechet_distance(a, b) == pytest.approx(float((mean**2).sum() + ((s - t) ** 2).sum()), rel=1e-9)


def test_any_covariances_against_the_matrix_root() -> None:
    cov_a, cov_b, shift = random_cov(12, 0), random_cov(12, 1), np.random.default_rng(2).standard_normal(12)
    a, b = moments(rows(shift, cov_a, 300, 3)), moments(rows(np.zeros(12), cov_b, 300, 4))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = float(shift @ shift + np.trace(cov_a + cov_b - 2 * root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_distance_to_itself_is_zero_even_when_singular() -> None:
    x = np.random.default_rng(0).standard_normal([5, 20])  # rank 4
    assert 0 <= frechet_distance(moments(x), moments(x)) < 1e-6
    shifted = frechet_distance(moments(x), moments(x + 3))
    assert shifted == pytest.approx(9 * 20, rel=1e-6)


def test_parts_and_merging_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal([101, 7]).astype(np.float32)
    whole = moments(x)
    parts = Moments(7)
    for start in range(0, 101, 13):
        parts.add(x[start : start + 13])
    merged = moments(x[:40]).merge(Moments(7)).merge(moments(x[40:]))
    for other in (parts, merged):
        assert other.count == 101
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(other.cov, whole.cov, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(whole.cov, np.cov(x.T.astype(np.float64)), rtol=1e-10)


def test_large_mean_costs_no_digits() -> None:
    x = np.random.default_rng(0).standard_normal([1000, 3])
    far = Moments(3)
    for part in np.split(x + 1e7, 10):
        far.add(part)
    np.testing.assert_allclose(far.cov, np.cov(x.T), rtol=1e-6)


def test_bad_features() -> None:
    with pytest.raises(FrechetError, match=r"features have shape \(2, 3\); these moments take \(N, 4\)"):
        Moments(4).add(np.zeros([2, 3]))
    with pytest.raises(FrechetError, match="not finite"):
        Moments(2).add(np.array([[0.0, np.nan]]))
    with pytest.raises(FrechetError, match="1 feature rows were added; at least 2 are needed"):
        frechet_distance(moments(np.zeros([1, 2])), moments(np.zeros([3, 2])))
    with pytest.raises(FrechetError, match="0 feature rows"):
        _ = Moments(2).mean
    with pytest.raises(FrechetError, match="moments of 2 and 3 features"):
        frechet_distance(moments(np.zeros([3, 2])), moments(np.zeros([3, 3])))
    with pytest.raises(FrechetError, match="cannot merge moments of 3 features into 2"):
        Moments(2).merge(Moments(3))
