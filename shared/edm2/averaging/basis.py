"""A few combinations of stored averages from which every profile of a family can be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phema.shared.edm2.averaging.movement import Grid, Movement
from phema.shared.edm2.averaging.weightings import FloatArray, Profile


@dataclass(frozen=True, eq=False)
class Basis:
    """`vectors` [K, stored]: coefficients of combinations that are orthonormal in `metric`."""

    vectors: FloatArray
    metric: FloatArray
    """[stored, stored]: expected product of two stored averages, relative to the weights' mean square."""
    error: float
    """Largest expected error, relative to the weights, that the basis adds to a profile of the family."""

    def combined(self, projected: FloatArray) -> FloatArray:
        """[targets, stored]: coefficients of the vectors [targets, K] as coefficients of what they were made of."""
        return projected @ self.vectors

    def project(self, coefficients: FloatArray) -> FloatArray:
        """[targets, K] coefficients of the vectors, nearest to given ones [targets, stored]."""
        return coefficients @ self.metric @ self.vectors.T


def metric_of(stored: Sequence[Profile], *, movement: Movement, noise: FloatArray, rms: float) -> FloatArray:
    """[stored, stored] expected products of averages: what all weights share, what they move, and their rounding."""
    grid = Grid.of(movement, stored)
    tails = grid.tails(stored)
    moved = (tails * grid.shares) @ tails.T + np.diag(noise**2)
    metric: FloatArray = moved / rms**2 + 1.0
    return metric


def find_basis(coefficients: FloatArray, metric: FloatArray, tolerance: float) -> Basis:
    """The smallest basis that loses at most `tolerance` of any row of `coefficients` [family, stored].

    Its vectors are principal components of the family, of unit size as weights: combinations that can be stored in
    float32 without loss. Raises ValueError unless `tolerance` is above 0.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance!r} must be above 0")
    values, axes = np.linalg.eigh(metric)
    family = coefficients @ (axes * np.sqrt(np.maximum(values, 0.0)))
    left, sizes, _ = np.linalg.svd(family, full_matrices=False)
    lost = np.sqrt(np.cumsum(((left * sizes) ** 2)[:, ::-1], axis=1)[:, ::-1]).max(axis=0)
    # What is lost when only the first k components are kept, for every k; more than the rank are noise.
    rank = int(np.sum(sizes > sizes[0] * np.finfo(np.float64).eps * len(metric)))
    after = np.append(lost, 0.0)[1 : rank + 1]
    count = int(np.argmax(after <= tolerance)) + 1 if (after <= tolerance).any() else rank
    return Basis((left[:, :count].T @ coefficients) / sizes[:count, None], metric, float(after[count - 1]))
