"""Post-hoc reconstruction: the combination of stored averages nearest to a wanted one.

Karras et al. 2024, Section 3.2 and Appendix C.3. NumPy in float64, nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.edm2.powerfunction import SIGMA_REL_LIMIT, gamma_from_sigma_rel

FloatArray = npt.NDArray[np.float64]


class PosthocError(ValueError):
    """A profile is impossible, or there is nothing to reconstruct from or to."""


@dataclass(frozen=True)
class PowerProfile:
    """Weighting of training history by a power-function average of width `sigma_rel`, ending at `num_images`."""

    num_images: int
    sigma_rel: float

    def __post_init__(self) -> None:
        if not self.num_images > 0:
            raise PosthocError(f"num_images {self.num_images!r} must be above 0")
        if not 0 < self.sigma_rel < SIGMA_REL_LIMIT:
            raise PosthocError(f"sigma_rel {self.sigma_rel!r} must lie strictly between 0 and 12^-0.5 = 0.28867513")

    @functools.cached_property
    def gamma(self) -> float:
        return gamma_from_sigma_rel(self.sigma_rel)

    def density(self, t: npt.ArrayLike) -> FloatArray:
        """Weight per image at the times `t` (images); it integrates to 1 over (0, num_images] and is 0 elsewhere."""
        times = np.asarray(t, dtype=np.float64)
        inside = (times > 0) & (times <= self.num_images)
        ratio = np.where(inside, times / self.num_images, 1.0)
        return np.where(inside, (self.gamma + 1) / self.num_images * ratio**self.gamma, 0.0)


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients of the stored profiles for every target, and what they promise."""

    coefficients: FloatArray
    """[targets, stored]: row k combines the stored averages into target k."""
    predicted_error: FloatArray
    """[targets]: L2 distance of the combined profile from the target, relative to the target's own norm."""
    noise_gain: FloatArray
    """[targets]: ||c||_2, by which independent rounding noise of the stored weights grows."""
    condition: float
    """Condition number of the Gram matrix of the stored profiles (infinite when one occurs twice)."""


def inner_product(a: PowerProfile, b: PowerProfile) -> float:
    """Integral of the product of two profiles, per image (Eq. 151)."""
    return float(_inner_products([a], [b])[0, 0])


def gram(profiles: Sequence[PowerProfile]) -> FloatArray:
    """[N, N] inner products of `profiles` with each other."""
    return _inner_products(profiles, profiles)


def solve(stored: Sequence[PowerProfile], targets: Sequence[PowerProfile]) -> Solution:
    """Least-squares fit of each target's profile by the stored ones (Algorithm 3).

    The normal equations are solved with every profile scaled to unit norm, which removes the spread of the
    diagonal; of equally good answers (a profile stored twice) the one of smallest norm is taken.
    Raises PosthocError when either list is empty.
    """
    if not stored or not targets:
        raise PosthocError(f"{len(stored)} stored profiles and {len(targets)} targets: at least one of each is needed")
    products = gram(stored)
    stored_norm = np.sqrt(np.diagonal(products))
    target_norm = np.array([np.sqrt(inner_product(p, p)) for p in targets])
    cosines = products / np.outer(stored_norm, stored_norm)
    wanted = _inner_products(stored, targets) / np.outer(stored_norm, target_norm)

    scaled, _, rank, _ = np.linalg.lstsq(cosines, wanted, rcond=len(stored) * np.finfo(np.float64).eps)
    squared_error = 1 - 2 * np.sum(scaled * wanted, axis=0) + np.sum(scaled * (cosines @ scaled), axis=0)
    coefficients = (scaled / stored_norm[:, None] * target_norm).T
    return Solution(
        coefficients=np.ascontiguousarray(coefficients),
        predicted_error=np.sqrt(np.maximum(squared_error, 0.0)),
        noise_gain=np.linalg.norm(coefficients, axis=1),
        condition=float(np.linalg.cond(products)) if rank == len(stored) else float("inf"),
    )


def _inner_products(a: Sequence[PowerProfile], b: Sequence[PowerProfile]) -> FloatArray:
    """[len(a), len(b)]; only ratios of times are raised to powers, so that nothing overflows."""
    t_a, g_a = _columns(a)
    t_b, g_b = _columns(b)
    t_a, g_a = t_a[:, None], g_a[:, None]
    later = np.maximum(t_a, t_b)
    exponent_of_later = np.where(t_a <= t_b, g_b, g_a)
    ratio = np.minimum(t_a, t_b) / later
    products: FloatArray = (g_a + 1) * (g_b + 1) * ratio**exponent_of_later / ((g_a + g_b + 1) * later)
    return products


def _columns(profiles: Sequence[PowerProfile]) -> tuple[FloatArray, FloatArray]:
    times = np.array([p.num_images for p in profiles], dtype=np.float64)
    gammas = np.array([p.gamma for p in profiles], dtype=np.float64)
    return times, gammas
