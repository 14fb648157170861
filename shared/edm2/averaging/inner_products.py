"""Inner products of weightings of training history, in float64 (Karras et al. 2024, Appendix C).

Between power functions they have a closed form (Eq. 151), and so they do between exponentials and constants. All others
are computed by Gauss-Legendre quadrature, to a relative error of about 1e-13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.densities import DecayDensity, Density, ExponentialDensity, FloatArray, PowerDensity
from phema.shared.edm2.averaging.weightings import Weighting, WeightingError


def inner_product(a: Weighting, b: Weighting) -> float:
    """Integral of the product of two densities, per image (Eq. 151). Raises WeightingError if one is not finite."""
    return float(inner_products([a], [b])[0, 0])


def inner_products(a: Sequence[Weighting], b: Sequence[Weighting]) -> FloatArray:
    """[len(a), len(b)] inner products of every pair. Raises WeightingError for one that is not `square_integrable`."""
    row, row_mass, row_densities = _flattened(a)
    column, column_mass, column_densities = _flattened(b)
    products = _density_products(row_densities, column_densities) * np.outer(row_mass, column_mass)
    total = np.zeros((len(a), len(b)))
    np.add.at(total, (row[:, None], column[None, :]), products)
    return total


def _flattened(weightings: Sequence[Weighting]) -> tuple[npt.NDArray[np.int64], FloatArray, list[Density]]:
    for weighting in weightings:
        if weighting.components and not weighting.square_integrable:
            raise WeightingError(
                "the density of a profile has no finite norm: no plain inner product with it is defined"
            )
    flat = [(i, mass, density) for i, weighting in enumerate(weightings) for mass, density in weighting.components]
    return np.array([i for i, _, _ in flat], dtype=np.int64), np.array([m for _, m, _ in flat]), [a for *_, a in flat]


def _density_products(a: list[Density], b: list[Density]) -> FloatArray:
    products = np.empty((len(a), len(b)))
    shaped_rows, shaped_columns = ([k for k, d in enumerate(c) if isinstance(d, DecayDensity)] for c in (a, b))
    for k in shaped_rows:
        products[k] = [_by_quadrature(a[k], density) for density in b]
    for k in shaped_columns:
        products[:, k] = [_by_quadrature(b[k], density) for density in a]
    rows, columns = _by_family(a), _by_family(b)
    for row_is_power, i in rows:
        for column_is_power, j in columns:
            if not len(i) or not len(j):
                continue
            left, right = np.array([a[k] for k in i]), np.array([b[k] for k in j])
            if row_is_power and column_is_power:
                block = _power_power(left, right)
            elif row_is_power:
                block = _power_exponential(left, right)
            elif column_is_power:
                block = _power_exponential(right, left).T
            else:
                block = _exponential_exponential(left, right)
            products[np.ix_(i, j)] = block
    return products


def _by_family(densities: list[Density]) -> list[tuple[bool, list[int]]]:
    """Indices of the power densities, then of the exponential ones, each list with whether it is the former."""
    families: tuple[tuple[bool, type], ...] = ((True, PowerDensity), (False, ExponentialDensity))
    return [(flag, [k for k, density in enumerate(densities) if isinstance(density, kind)]) for flag, kind in families]


def _power_power(a: FloatArray, b: FloatArray) -> FloatArray:
    """Only ratios of times are raised to powers, so that nothing overflows."""
    (t_a, g_a), (t_b, g_b) = a.T[:, :, None], b.T[:, None, :]
    later = np.maximum(t_a, t_b)
    exponent_of_later = np.where(t_a <= t_b, g_b, g_a)
    ratio = np.minimum(t_a, t_b) / later
    products: FloatArray = (g_a + 1) * (g_b + 1) * ratio**exponent_of_later / ((g_a + g_b + 1) * later)
    return products


def _exponential_exponential(a: FloatArray, b: FloatArray) -> FloatArray:
    (start_a, end_a, k_a), (start_b, end_b, k_b) = a.T[:, :, None], b.T[:, None, :]
    low, high = np.maximum(start_a, start_b), np.minimum(end_a, end_b)
    length = np.maximum(high - low, 0.0)
    rate = k_a + k_b
    fading = np.where(rate * length > 1e-12, -np.expm1(-rate * length) / np.where(rate > 0, rate, 1.0), length)
    heights = np.exp(-k_a * np.maximum(end_a - high, 0.0) - k_b * np.maximum(end_b - high, 0.0))
    products: FloatArray = _heights(a)[:, None] * _heights(b)[None, :] * heights * fading
    return products


def _heights(exponentials: FloatArray) -> FloatArray:
    """Density of each row (start, end, rate) at its end."""
    return np.array([ExponentialDensity(*row).height for row in exponentials])


_PANELS, _NODES = 24, 16
_X, _W = np.polynomial.legendre.leggauss(_NODES)
_SMALLEST = 1e-12


def _power_exponential(powers: FloatArray, exponentials: FloatArray) -> FloatArray:
    """Gauss-Legendre quadrature. Panels are small at the upper end, where both densities are largest, and at the lower
    end, where a power of a time near 0 is no polynomial."""
    heights = _heights(exponentials)
    start, end, rate = exponentials.T
    products = np.empty((len(powers), len(exponentials)))
    for i, (t, gamma) in enumerate(powers):
        high = np.minimum(t, end)
        length = np.maximum(high - start, 0.0)
        steepness = np.maximum((gamma / high + rate) * length, 1.0)
        # Panel edges: distances from `high`, in units of `length`.
        upper = np.geomspace(0.25 / steepness, 0.5, _PANELS)
        lower = 1 - np.geomspace(np.full_like(length, 0.5), _SMALLEST, _PANELS)[1:]
        edges = np.concatenate([np.zeros((1, len(length))), upper, lower, np.ones((1, len(length)))])
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        distance = (middle[:, None] + half[:, None] * _X[None, :, None]) * length
        tau = np.maximum(high - distance, 0.0)
        values = (tau / t) ** gamma * np.exp(-rate * (end - tau))
        integral = (half[:, None] * _W[None, :, None] * values).sum((0, 1)) * length
        products[i] = (gamma + 1) / t * heights * integral
    return products


def _by_quadrature(a: Density, b: Density) -> float:
    """Gauss-Legendre quadrature over the times that both densities have weight at, with panels that shrink towards both
    ends: densities are steep at the later end, and a power of a time near 0 is no polynomial."""
    low = max(density.start if not isinstance(density, PowerDensity) else 0.0 for density in (a, b))
    high = min(a.end, b.end)
    if high <= low:
        return 0.0
    graded = np.geomspace(_SMALLEST, 0.5, _PANELS)
    edges = np.concatenate([[0.0], graded, 1 - graded[-2::-1], [1.0]])
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    # From the later end, where the distance has to be exact.
    times = high - (high - low) * (1 - (middle[:, None] + half[:, None] * _X[None, :]))
    values = a.density(times) * b.density(times)
    return float((high - low) * (half[:, None] * _W[None, :] * values).sum())
