"""Weightings of training history and their inner products, in float64 (Karras et al. 2024, Appendix C).

Every profile ends at `num_images` and weighs the weights theta(tau) of times 0 < tau <= num_images; times count images.
All but `RawProfile`, whose density is a Dirac impulse, have finite inner products: between power functions in closed
form (Eq. 151), between exponentials and constants likewise, across by Gauss-Legendre quadrature to about 1e-13.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT, gamma_from_sigma_rel

FloatArray = npt.NDArray[np.float64]


class ProfileError(ValueError):
    """A profile is impossible, or has no inner product."""


class Power(NamedTuple):
    """(gamma + 1) / end * (tau / end)^gamma on (0, end]."""

    end: float
    gamma: float


class Exponential(NamedTuple):
    """Proportional to e^(rate * tau) on (start, end], with integral 1; a constant for rate 0."""

    start: float
    end: float
    rate: float

    @property
    def height(self) -> float:
        """Density at `end`."""
        length = self.end - self.start
        return self.rate / -math.expm1(-self.rate * length) if self.rate * length > 1e-12 else 1 / length


Atom = Power | Exponential
Atoms = tuple[tuple[float, Atom], ...]
"""Masses and normalised densities that add up to a profile."""


class Profile:
    """A weighting of history that ends at `num_images`."""

    num_images: float

    @property
    def atoms(self) -> Atoms:
        raise NotImplementedError

    def density(self, t: npt.ArrayLike) -> FloatArray:
        """Weight per image at the times `t` (images), 0 outside of (0, num_images]."""
        times = np.asarray(t, dtype=np.float64)
        total = np.zeros_like(times)
        for mass, atom in self.atoms:
            total += mass * _density(atom, times)
        return total

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        """Weight of all times after `t` (images); what is missing from 1 at t = 0 lies on the initial weights."""
        times = np.asarray(t, dtype=np.float64)
        total = np.zeros_like(times)
        for mass, atom in self.atoms:
            total += mass * _tail(atom, times)
        return total


@dataclass(frozen=True)
class PowerProfile(Profile):
    """A power-function average of relative width `sigma_rel` (Section 3.1)."""

    num_images: float
    sigma_rel: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not 0 < self.sigma_rel < SIGMA_REL_LIMIT:
            raise ProfileError(f"sigma_rel {self.sigma_rel!r} must lie strictly between 0 and 12^-0.5 = 0.28867513")

    @functools.cached_property
    def gamma(self) -> float:
        return gamma_from_sigma_rel(self.sigma_rel)

    @property
    def atoms(self) -> Atoms:
        return ((1.0, Power(self.num_images, self.gamma)),)


@dataclass(frozen=True)
class ExponentialProfile(Profile):
    """A traditional average of some half-life; with `rampup_ratio` r the half-life at time t is at most r * t.

    While that limit holds, up to half_life_images / r, the average is a power function of exponent ln 2 / r - 1.
    """

    num_images: float
    half_life_images: float
    rampup_ratio: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not self.half_life_images > 0:
            raise ProfileError(f"half_life_images {self.half_life_images!r} must be above 0")
        if self.rampup_ratio is not None and not 0 < self.rampup_ratio < math.log(2):
            raise ProfileError(f"rampup_ratio {self.rampup_ratio!r} must lie between 0 and ln 2 = 0.6931")

    @functools.cached_property
    def atoms(self) -> Atoms:
        rate = math.log(2) / self.half_life_images
        if self.rampup_ratio is None:
            # What the initial weights keep is no part of the density.
            return ((-math.expm1(-rate * self.num_images), Exponential(0.0, self.num_images, rate)),)
        gamma = math.log(2) / self.rampup_ratio - 1
        ramp = self.half_life_images / self.rampup_ratio
        if ramp >= self.num_images:
            return ((1.0, Power(self.num_images, gamma)),)
        left = math.exp(-rate * (self.num_images - ramp))
        return ((left, Power(ramp, gamma)), (1 - left, Exponential(ramp, self.num_images, rate)))


@dataclass(frozen=True)
class UniformProfile(Profile):
    """The plain mean of the last `window_images` images; of all, if there are no more."""

    num_images: float
    window_images: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not self.window_images > 0:
            raise ProfileError(f"window_images {self.window_images!r} must be above 0")

    @property
    def atoms(self) -> Atoms:
        return ((1.0, Exponential(max(0.0, self.num_images - self.window_images), self.num_images, 0.0)),)


@dataclass(frozen=True)
class SampledProfile(Profile):
    """Constant between `times`: `weights[i]` of the whole lies between times[i - 1] (0 for the first) and times[i].

    Weights are relative to their sum, and may be negative. The last time is `num_images`.
    """

    num_images: float
    times: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        rising = all(a < b for a, b in zip((0.0, *self.times), self.times, strict=False))
        if not self.times or not rising or self.times[-1] != self.num_images:
            raise ProfileError(f"times must rise from above 0 to num_images {self.num_images:g}")
        if len(self.weights) != len(self.times) or not sum(self.weights) > 0:
            raise ProfileError(f"weights must be {len(self.times)} numbers, one for each time, of positive sum")

    @functools.cached_property
    def atoms(self) -> Atoms:
        total = math.fsum(self.weights)
        edges = zip((0.0, *self.times), self.times, self.weights, strict=False)
        return tuple((w / total, Exponential(start, end, 0.0)) for start, end, w in edges if w)


@dataclass(frozen=True)
class RawProfile(Profile):
    """The weights themselves at one time. An impulse: it has a `tail` but neither density nor inner products."""

    num_images: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)

    @property
    def atoms(self) -> Atoms:
        raise ProfileError("raw weights have an impulse for a profile: no plain inner product with it is finite")

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        return (np.asarray(t, dtype=np.float64) < self.num_images).astype(np.float64)


def inner_product(a: Profile, b: Profile) -> float:
    """Integral of the product of two densities, per image (Eq. 151). Raises ProfileError for raw weights."""
    return float(inner_products([a], [b])[0, 0])


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> FloatArray:
    """[len(a), len(b)]. Raises ProfileError for raw weights."""
    row, row_mass, row_atoms = _flattened(a)
    column, column_mass, column_atoms = _flattened(b)
    products = _atom_products(row_atoms, column_atoms) * np.outer(row_mass, column_mass)
    total = np.zeros((len(a), len(b)))
    np.add.at(total, (row[:, None], column[None, :]), products)
    return total


def _flattened(profiles: Sequence[Profile]) -> tuple[npt.NDArray[np.int64], FloatArray, list[Atom]]:
    flat = [(i, mass, atom) for i, profile in enumerate(profiles) for mass, atom in profile.atoms]
    return np.array([i for i, _, _ in flat], dtype=np.int64), np.array([m for _, m, _ in flat]), [a for *_, a in flat]


def _atom_products(a: list[Atom], b: list[Atom]) -> FloatArray:
    products = np.empty((len(a), len(b)))
    rows, columns = _kinds(a), _kinds(b)
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


def _kinds(atoms: list[Atom]) -> list[tuple[bool, list[int]]]:
    return [(flag, [k for k, atom in enumerate(atoms) if isinstance(atom, Power) == flag]) for flag in (True, False)]


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


def _heights(atoms: FloatArray) -> FloatArray:
    return np.array([Exponential(*atom).height for atom in atoms])


_PANELS, _NODES = 24, 16
_X, _W = np.polynomial.legendre.leggauss(_NODES)
_SMALLEST = 1e-12


def _power_exponential(powers: FloatArray, exponentials: FloatArray) -> FloatArray:
    """Gauss-Legendre on panels that grow away from the upper end, where both densities are largest, and from the lower
    one, where a power of a time near 0 is no polynomial."""
    heights = _heights(exponentials)
    start, end, rate = exponentials.T
    products = np.empty((len(powers), len(exponentials)))
    for i, (t, gamma) in enumerate(powers):
        high = np.minimum(t, end)
        length = np.maximum(high - start, 0.0)
        steepness = np.maximum((gamma / high + rate) * length, 1.0)
        # Distances from `high` in units of `length`.
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


def _density(atom: Atom, times: FloatArray) -> FloatArray:
    start = 0.0 if isinstance(atom, Power) else atom.start
    inside = (times > start) & (times <= atom.end)
    inner = np.where(inside, times, atom.end)
    if isinstance(atom, Power):
        values = (atom.gamma + 1) / atom.end * (inner / atom.end) ** atom.gamma
    else:
        values = atom.height * np.exp(-atom.rate * (atom.end - inner))
    density: FloatArray = np.where(inside, values, 0.0)
    return density


def _tail(atom: Atom, times: FloatArray) -> FloatArray:
    if isinstance(atom, Power):
        ratio = np.clip(times / atom.end, 0.0, 1.0)
        return np.asarray(1 - ratio ** (atom.gamma + 1))
    left = np.clip(atom.end - times, 0.0, atom.end - atom.start)
    if atom.rate * (atom.end - atom.start) > 1e-12:
        return np.asarray(atom.height / atom.rate * -np.expm1(-atom.rate * left))
    return np.asarray(atom.height * left)


def _check_time(num_images: float) -> None:
    if not num_images > 0:
        raise ProfileError(f"num_images {num_images!r} must be above 0")
