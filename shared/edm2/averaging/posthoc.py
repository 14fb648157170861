"""Post-hoc reconstruction: the combination of stored averages nearest to a wanted one. NumPy in float64 only.

`solve` is the paper's method (Karras et al. 2024, Section 3.2 and Appendix C.3): it minimises the error of the profile.
`WeightErrorFit` minimises the expected error of the weights instead. That error has two parts: the misfit of the
profile, given how much the run's weights move, and the rounding of the stored averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.densities import FloatArray
from phema.shared.edm2.averaging.inner_products import inner_product, inner_products
from phema.shared.edm2.averaging.random_walk import RandomWalk, TimeGrid
from phema.shared.edm2.averaging.weightings import Weighting, WeightingError

Indices = npt.NDArray[np.int64]

PosthocError = WeightingError
"""A profile is impossible, or there is nothing to reconstruct from or to."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients of the stored averages for every target, and the errors they lead to."""

    coefficients: FloatArray
    """[targets, stored]: row k combines the stored averages into target k."""
    profile_error: FloatArray
    """[targets]: L2 distance of the combined profile from the target, relative to the norm of the target; NaN where a
    profile takes part that is not square-integrable, such as raw weights."""
    noise_gain: FloatArray
    """[targets]: ||c||_2, the factor by which independent rounding noise of the stored weights grows."""


@dataclass(frozen=True, eq=False)
class ExpectedErrors:
    """Expected standard deviations of the error of each target's reconstruction, in units of a weight."""

    movement: FloatArray
    """[targets]: from the misfit of the profile."""
    rounding: FloatArray
    """[targets]: from the rounding of the stored averages."""


def gram(profiles: Sequence[Weighting]) -> FloatArray:
    """[N, N] inner products of `profiles` with each other."""
    return inner_products(profiles, profiles)


def solve(stored: Sequence[Weighting], targets: Sequence[Weighting]) -> Solution:
    """Least-squares fit of each target's profile by the stored ones (Algorithm 3).

    The normal equations are solved with every profile scaled to unit norm, which removes the spread of the diagonal.
    Of equally good answers (a profile stored twice) the one of smallest norm is returned. Raises PosthocError if either
    list is empty or contains a profile that is not square-integrable.
    """
    _check(stored, targets)
    products = gram(stored)
    stored_norm = np.sqrt(np.diagonal(products))
    target_norm = np.array([np.sqrt(inner_product(p, p)) for p in targets])
    cosines = products / np.outer(stored_norm, stored_norm)
    wanted = inner_products(stored, targets) / np.outer(stored_norm, target_norm)
    scaled = np.linalg.lstsq(cosines, wanted, rcond=len(stored) * np.finfo(np.float64).eps)[0]
    coefficients = np.ascontiguousarray((scaled / stored_norm[:, None] * target_norm).T)
    squared_error = 1 - 2 * np.sum(scaled * wanted, axis=0) + np.sum(scaled * (cosines @ scaled), axis=0)
    return Solution(coefficients, np.sqrt(np.maximum(squared_error, 0.0)), np.linalg.norm(coefficients, axis=1))


def profile_errors(stored: Sequence[Weighting], targets: Sequence[Weighting], coefficients: FloatArray) -> FloatArray:
    """[targets] relative L2 distances of the combined profiles; NaN where one is not square-integrable."""
    found = np.full(len(targets), np.nan)
    dense = [i for i, p in enumerate(stored) if p.square_integrable]
    usable = [
        k
        for k, target in enumerate(targets)
        if target.square_integrable and not np.delete(coefficients[k], dense).any()
    ]
    if not dense or not usable:
        return found
    kept, wanted = [stored[i] for i in dense], [targets[k] for k in usable]
    chosen = coefficients[np.ix_(usable, dense)]
    norms = np.array([inner_product(p, p) for p in wanted])
    cross = np.einsum("kn,nk->k", chosen, inner_products(kept, wanted))
    own = np.einsum("kn,nm,km->k", chosen, gram(kept), chosen)
    found[usable] = np.sqrt(np.maximum(1 - 2 * cross / norms + own / norms, 0.0))
    return found


class WeightErrorFit:
    """Least expected error of the weights, for weights that move like `movement`.

    `noise` [stored] is the standard deviation of the rounding of each stored average, in units of a weight. Raises
    PosthocError if either list is empty.
    """

    def __init__(
        self, stored: Sequence[Weighting], targets: Sequence[Weighting], *, movement: RandomWalk, noise: FloatArray
    ) -> None:
        _check(stored, targets)
        grid = TimeGrid.of(movement, [*stored, *targets])
        self._noise, self._shares = noise, grid.shares
        self._stored, self._targets = grid.tails(stored), grid.tails(targets)
        self._covariance = (self._stored * grid.shares) @ self._stored.T + np.diag(noise**2)
        self._wanted = (self._stored * grid.shares) @ self._targets.T

    def solve(self, kept: Indices | None = None) -> FloatArray:
        """[targets, kept] coefficients of least expected error of the weights; each row sums to 1."""
        kept = np.arange(len(self._noise)) if kept is None else kept
        covariance, wanted = self._covariance[np.ix_(kept, kept)], self._wanted[kept]
        scale = np.sqrt(np.diagonal(covariance))
        # The border makes the coefficients sum to 1. The unknowns are scaled so that the diagonal is 1.
        size = np.linalg.norm(1 / scale)
        border = 1 / scale / size
        matrix = np.block([[covariance / np.outer(scale, scale), border[:, None]], [border[None, :], np.zeros((1, 1))]])
        right = np.vstack([wanted / scale[:, None], np.full((1, wanted.shape[1]), 1 / size)])
        scaled = np.linalg.solve(matrix, right)
        scaled += np.linalg.solve(matrix, right - matrix @ scaled)
        return np.ascontiguousarray((scaled[: len(kept)] / scale[:, None]).T)

    def expected(self, coefficients: FloatArray, *, rms: float, kept: Indices | None = None) -> ExpectedErrors:
        """Errors of any coefficients [targets, kept]. `rms` of the weights matters if a row does not sum to 1."""
        kept = np.arange(len(self._noise)) if kept is None else kept
        missed = self._targets - coefficients @ self._stored[kept]
        lost = (1 - coefficients.sum(axis=1)) * rms
        return ExpectedErrors(
            movement=np.sqrt(missed**2 @ self._shares + lost**2),
            rounding=np.sqrt(coefficients**2 @ self._noise[kept] ** 2),
        )


def _check(stored: Sequence[Weighting], targets: Sequence[Weighting]) -> None:
    if not stored or not targets:
        raise PosthocError(f"{len(stored)} stored profiles and {len(targets)} targets: at least one of each is needed")
