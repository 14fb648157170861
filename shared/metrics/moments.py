"""Mean and covariance of features, and the Fréchet distance between two of them (Heusel et al. 2017).

NumPy in float64 only.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class FrechetError(ValueError):
    """Features have a shape, number or values of which no moments can be computed."""


class Moments:
    """Mean and covariance of feature rows, which may be added in any number of batches.

    The scatter is kept about the running mean (Chan et al. 1979), so that a large mean costs no precision.
    """

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.count = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros([num_features, num_features])

    @classmethod
    def of(cls, count: int, mean: npt.ArrayLike, cov: npt.ArrayLike) -> Self:
        """Moments that were stored: `mean` [n] and `cov` [n, n], normalised by count - 1, of `count` >= 2 rows.

        Raises FrechetError for other shapes, counts or values that are not finite.
        """
        stored_mean, stored_cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
        if stored_mean.ndim != 1 or stored_cov.shape != (len(stored_mean), len(stored_mean)) or count < 2:
            raise FrechetError(f"no moments: mean {stored_mean.shape}, covariance {stored_cov.shape}, {count} rows")
        if not (np.isfinite(stored_mean).all() and np.isfinite(stored_cov).all()):
            raise FrechetError("moments contain values that are not finite")
        moments = cls(len(stored_mean))
        moments.count, moments._mean, moments._scatter = count, stored_mean, stored_cov * (count - 1)
        return moments

    def add(self, features: npt.ArrayLike) -> Self:
        """Add rows [N, num_features]. Raises FrechetError for another shape or values that are not finite."""
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.num_features:
            raise FrechetError(f"features have shape {rows.shape}; these moments take (N, {self.num_features})")
        if not np.isfinite(rows).all():
            raise FrechetError("features contain values that are not finite")
        if len(rows):
            mean = rows.mean(axis=0)
            centred = rows - mean
            self._combine(len(rows), mean, centred.T @ centred)
        return self

    def merge(self, other: Moments) -> Self:
        """Add the rows of `other`. Raises FrechetError for another number of features."""
        if other.num_features != self.num_features:
            raise FrechetError(f"cannot merge moments of {other.num_features} features into {self.num_features}")
        if other.count:
            self._combine(other.count, other._mean, other._scatter)
        return self

    @property
    def mean(self) -> FloatArray:
        """[num_features]. Raises FrechetError without rows."""
        self._require(1)
        return self._mean.copy()

    @property
    def cov(self) -> FloatArray:
        """[num_features, num_features], normalised by count - 1. Raises FrechetError for fewer than 2 rows."""
        self._require(2)
        return self._scatter / (self.count - 1)

    def _combine(self, count: int, mean: FloatArray, scatter: FloatArray) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(delta, delta) * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    def _require(self, count: int) -> None:
        if self.count < count:
            raise FrechetError(f"{self.count} feature rows were added; at least {count} are needed")


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), at least 0.

    The trace of the root comes from the eigenvalues of cov_a^(1/2) cov_b cov_a^(1/2), which are real and non-negative
    even if a covariance is singular. Raises FrechetError if either has fewer than 2 rows or their sizes differ.
    """
    if a.num_features != b.num_features:
        raise FrechetError(f"cannot compare moments of {a.num_features} and {b.num_features} features")
    cov_a, cov_b = a.cov, b.cov
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root_a @ cov_b @ root_a
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0.0)).sum()
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(0.0, float(distance))
