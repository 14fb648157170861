"""Mean and covariance of features, and the Fréchet distance between two of them (Heusel et al. 2017).

NumPy in float64 only.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from phema.shared.metrics.errors import ScoringError

FloatArray = npt.NDArray[np.float64]


class FrechetError(ScoringError):
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
    def of(cls, count: int, mean: npt.ArrayLike, scatter: npt.ArrayLike) -> Self:
        """Moments that were stored: `mean` [n] and `scatter` [n, n], the covariance times count - 1, of `count` >= 2.

        Raises FrechetError for other shapes, counts or values that are not finite.
        """
        stored_mean, stored_scatter = np.asarray(mean, np.float64), np.asarray(scatter, np.float64)
        if stored_mean.ndim != 1 or stored_scatter.shape != (len(stored_mean), len(stored_mean)) or count < 2:
            raise FrechetError(f"no moments: mean {stored_mean.shape}, scatter {stored_scatter.shape}, {count} rows")
        if not (np.isfinite(stored_mean).all() and np.isfinite(stored_scatter).all()):
            raise FrechetError("moments contain values that are not finite")
        moments = cls(len(stored_mean))
        moments.count, moments._mean, moments._scatter = count, stored_mean, stored_scatter
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

    def copy(self) -> Self:
        """Moments of the same rows, to which others may be added."""
        other = type(self)(self.num_features)
        other.count, other._mean, other._scatter = self.count, self._mean, self._scatter
        return other

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

    @property
    def scatter(self) -> FloatArray:
        """[num_features, num_features]: the covariance times count - 1. Raises FrechetError for fewer than 2 rows."""
        self._require(2)
        return self._scatter.copy()

    def _combine(self, count: int, mean: FloatArray, scatter: FloatArray) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(delta, delta) * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    def _require(self, count: int) -> None:
        if self.count < count:
            raise FrechetError(f"{self.count} feature rows were added; at least {count} are needed")


class FrechetTo:
    """Fréchet distances to one reference, whose matrix root is computed once."""

    def __init__(self, reference: Moments) -> None:
        """Raises FrechetError for fewer than 2 rows."""
        self._mean, self._cov = reference.mean, reference.cov
        values, vectors = np.linalg.eigh(self._cov)
        self._root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def __call__(self, moments: Moments) -> float:
        """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½), at least 0.

        The trace of the root comes from the eigenvalues of Σ₂^½ Σ₁ Σ₂^½, which are real and non-negative even if a
        covariance is singular. Raises FrechetError for fewer than 2 rows or another number of features.
        """
        if moments.num_features != len(self._mean):
            raise FrechetError(f"cannot compare moments of {moments.num_features} and {len(self._mean)} features")
        cov = moments.cov
        product = self._root @ cov @ self._root
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0.0)).sum()
        distance = np.sum((moments.mean - self._mean) ** 2) + np.trace(cov) + np.trace(self._cov) - 2 * cross
        return max(0.0, float(distance))


def frechet_distance(a: Moments, b: Moments) -> float:
    """`FrechetTo` for a single distance. Raises FrechetError."""
    return FrechetTo(b)(a)
