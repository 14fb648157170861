"""Post-hoc reconstruction: the combination of stored averages nearest to a wanted one. NumPy in float64, nothing else.

`solve` is the paper's (Karras et al. 2024, Section 3.2 and Appendix C.3): the nearest profile. `AwareProblem` minimises
the error of the weights instead, as far as it can be expected: what the misfit of the profile costs in weights that
move as the run's do, and the rounding of the stored averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.movement import Grid, Movement
from phema.shared.edm2.averaging.weightings import (
    FloatArray,
    PowerProfile,
    Profile,
    ProfileError,
    RawProfile,
    inner_product,
)
from phema.shared.edm2.averaging.weightings import inner_products as _inner_products

__all__ = [
    "AwareProblem",
    "Indices",
    "PosthocError",
    "PowerProfile",
    "Solution",
    "gram",
    "inner_product",
    "profile_errors",
    "solve",
]

Indices = npt.NDArray[np.int64]

PosthocError = ProfileError
"""A profile is impossible, or there is nothing to reconstruct from or to."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients of the stored profiles for every target, and what they promise."""

    coefficients: FloatArray
    """[targets, stored]: row k combines the stored averages into target k."""
    profile_error: FloatArray
    """[targets]: L2 distance of the combined profile from the target, relative to the target's own norm; NaN where raw
    weights take part."""
    noise_gain: FloatArray
    """[targets]: ||c||_2, by which independent rounding noise of the stored weights grows."""


@dataclass(frozen=True, eq=False)
class Expected:
    """Standard deviations, in units of a weight, by which each target's reconstruction will miss."""

    movement: FloatArray
    """[targets]: through the misfit of the profile."""
    rounding: FloatArray
    """[targets]: through the rounding of the stored averages."""


def gram(profiles: Sequence[Profile]) -> FloatArray:
    """[N, N] inner products of `profiles` with each other."""
    return _inner_products(profiles, profiles)


def solve(stored: Sequence[Profile], targets: Sequence[Profile]) -> Solution:
    """Least-squares fit of each target's profile by the stored ones (Algorithm 3).

    The normal equations are solved with every profile scaled to unit norm, which removes the spread of the
    diagonal; of equally good answers (a profile stored twice) the one of smallest norm is taken.
    Raises PosthocError when either list is empty, or raw weights are among them.
    """
    _check(stored, targets)
    products = gram(stored)
    stored_norm = np.sqrt(np.diagonal(products))
    target_norm = np.array([np.sqrt(inner_product(p, p)) for p in targets])
    cosines = products / np.outer(stored_norm, stored_norm)
    wanted = _inner_products(stored, targets) / np.outer(stored_norm, target_norm)
    scaled = np.linalg.lstsq(cosines, wanted, rcond=len(stored) * np.finfo(np.float64).eps)[0]
    coefficients = np.ascontiguousarray((scaled / stored_norm[:, None] * target_norm).T)
    squared_error = 1 - 2 * np.sum(scaled * wanted, axis=0) + np.sum(scaled * (cosines @ scaled), axis=0)
    return Solution(coefficients, np.sqrt(np.maximum(squared_error, 0.0)), np.linalg.norm(coefficients, axis=1))


def profile_errors(stored: Sequence[Profile], targets: Sequence[Profile], coefficients: FloatArray) -> FloatArray:
    """[targets] relative L2 distances of the combined profiles; NaN where raw weights take part."""
    found = np.full(len(targets), np.nan)
    dense = [i for i, p in enumerate(stored) if not isinstance(p, RawProfile)]
    usable = [
        k
        for k, target in enumerate(targets)
        if not isinstance(target, RawProfile) and not np.delete(coefficients[k], dense).any()
    ]
    if not dense or not usable:
        return found
    kept, wanted = [stored[i] for i in dense], [targets[k] for k in usable]
    chosen = coefficients[np.ix_(usable, dense)]
    norms = np.array([inner_product(p, p) for p in wanted])
    cross = np.einsum("kn,nk->k", chosen, _inner_products(kept, wanted))
    own = np.einsum("kn,nm,km->k", chosen, gram(kept), chosen)
    found[usable] = np.sqrt(np.maximum(1 - 2 * cross / norms + own / norms, 0.0))
    return found


class AwareProblem:
    """Stored and wanted profiles of weights that move in a known way; `noise` [stored] is the standard deviation of
    each stored average's rounding.

    Raises PosthocError when either list is empty.
    """

    def __init__(
        self, stored: Sequence[Profile], targets: Sequence[Profile], *, movement: Movement, noise: FloatArray
    ) -> None:
        _check(stored, targets)
        grid = Grid.of(movement, [*stored, *targets])
        self._noise, self._shares = noise, grid.shares
        self._stored, self._targets = grid.tails(stored), grid.tails(targets)
        self._covariance = (self._stored * grid.shares) @ self._stored.T + np.diag(noise**2)
        self._wanted = (self._stored * grid.shares) @ self._targets.T

    def solve(self, kept: Indices | None = None) -> FloatArray:
        """[targets, kept] coefficients of least expected error of the weights; each row sums to 1."""
        kept = np.arange(len(self._noise)) if kept is None else kept
        covariance, wanted = self._covariance[np.ix_(kept, kept)], self._wanted[kept]
        scale = np.sqrt(np.diagonal(covariance))
        # The border says that coefficients sum to 1, in unknowns scaled to a unit diagonal.
        size = np.linalg.norm(1 / scale)
        border = 1 / scale / size
        matrix = np.block([[covariance / np.outer(scale, scale), border[:, None]], [border[None, :], np.zeros((1, 1))]])
        right = np.vstack([wanted / scale[:, None], np.full((1, wanted.shape[1]), 1 / size)])
        scaled = np.linalg.solve(matrix, right)
        scaled += np.linalg.solve(matrix, right - matrix @ scaled)
        return np.ascontiguousarray((scaled[: len(kept)] / scale[:, None]).T)

    def expected(self, coefficients: FloatArray, *, rms: float, kept: Indices | None = None) -> Expected:
        """What any coefficients [targets, kept] promise; `rms` of the weights matters where they do not sum to 1."""
        kept = np.arange(len(self._noise)) if kept is None else kept
        missed = self._targets - coefficients @ self._stored[kept]
        lost = (1 - coefficients.sum(axis=1)) * rms
        return Expected(
            movement=np.sqrt(missed**2 @ self._shares + lost**2),
            rounding=np.sqrt(coefficients**2 @ self._noise[kept] ** 2),
        )


def _check(stored: Sequence[Profile], targets: Sequence[Profile]) -> None:
    if not stored or not targets:
        raise PosthocError(f"{len(stored)} stored profiles and {len(targets)} targets: at least one of each is needed")
