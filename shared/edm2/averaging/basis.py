"""A basis: a few combinations of stored averages from which every profile of a family can be reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.random_walk import RandomWalk, TimeGrid
from phema.shared.edm2.averaging.weightings import Weighting


@dataclass(frozen=True, eq=False)
class Basis:
    """`vectors` [K, stored]: coefficients of K combinations that are orthonormal under `products`."""

    vectors: FloatArray
    products: FloatArray
    """[stored, stored]: expected product of two stored averages, relative to the weights' mean square."""
    error: float
    """Largest expected error, relative to the weights, that the basis adds to a profile of the family."""

    def combined(self, projected: FloatArray) -> FloatArray:
        """[targets, stored]: coefficients of the stored averages for given coefficients of the vectors [targets, K]."""
        return projected @ self.vectors

    def project(self, coefficients: FloatArray) -> FloatArray:
        """[targets, K]: coefficients of the vectors nearest to given coefficients of the stored averages."""
        return coefficients @ self.products @ self.vectors.T


def expected_products(
    stored: Sequence[Weighting], *, movement: RandomWalk, noise: FloatArray, rms: float
) -> FloatArray:
    """[stored, stored] expected products of stored averages, relative to the weights' mean square `rms`^2.

    Sum of that mean square, of the movement of the weights and, on the diagonal, of the rounding `noise` [stored].
    """
    grid = TimeGrid.of(movement, stored)
    tails = grid.tails(stored)
    moved = (tails * grid.shares) @ tails.T + np.diag(noise**2)
    products: FloatArray = moved / rms**2 + 1.0
    return products


def find_basis(coefficients: FloatArray, products: FloatArray, tolerance: float) -> Basis:
    """The smallest basis that loses at most `tolerance`, relative to the weights, of any row of `coefficients`.

    `coefficients` [family, stored] reconstruct the family. The vectors are its principal components, scaled to the size
    of the weights, so that float32 stores them without loss. Raises ValueError unless `tolerance` is above 0.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance!r} must be above 0")
    values, axes = np.linalg.eigh(products)
    family = coefficients @ (axes * np.sqrt(np.maximum(values, 0.0)))
    left, sizes, _ = np.linalg.svd(family, full_matrices=False)
    lost = np.sqrt(np.cumsum(((left * sizes) ** 2)[:, ::-1], axis=1)[:, ::-1]).max(axis=0)
    # after[k] is lost if only the first k + 1 components are kept. Components beyond the rank are noise.
    rank = int(np.sum(sizes > sizes[0] * np.finfo(np.float64).eps * len(products)))
    after = np.append(lost, 0.0)[1 : rank + 1]
    count = int(np.argmax(after <= tolerance)) + 1 if (after <= tolerance).any() else rank
    return Basis((left[:, :count].T @ coefficients) / sizes[:count, None], products, float(after[count - 1]))
