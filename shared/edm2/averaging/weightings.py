"""Weightings of training history, one class per kind, in float64 (Karras et al. 2024, Appendix C).

A weighting ends at `num_images` and weighs the network's weights theta(tau) at times 0 < tau <= num_images. Times count
images. All kinds but `RawWeighting`, whose density is a Dirac impulse, are finite sums of normalised densities.
`phema.shared.snapshots.profile.Profile` is how requests and files name a weighting.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.densities import Density, ExponentialDensity, FloatArray, PowerDensity
from phema.shared.edm2.averaging.power_function import SIGMA_REL_LIMIT, gamma_from_sigma_rel


class WeightingError(ValueError):
    """A weighting is impossible, or has no inner product."""


Components = tuple[tuple[float, Density], ...]
"""Masses and normalised densities that add up to a weighting."""


class Weighting:
    """A weighting of history that ends at `num_images`."""

    num_images: float

    @property
    def components(self) -> Components:
        """Raises WeightingError for raw weights."""
        raise NotImplementedError

    def density(self, t: npt.ArrayLike) -> FloatArray:
        """Weight per image at the times `t` (images), 0 outside of (0, num_images]."""
        times = np.asarray(t, dtype=np.float64)
        total = np.zeros_like(times)
        for mass, density in self.components:
            total += mass * density.density(times)
        return total

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        """Weight of all times after `t` (images). At t = 0, what is missing from 1 lies on the initial weights."""
        times = np.asarray(t, dtype=np.float64)
        total = np.zeros_like(times)
        for mass, density in self.components:
            total += mass * density.tail(times)
        return total


@dataclass(frozen=True)
class PowerWeighting(Weighting):
    """A power-function average of relative width `sigma_rel` (Section 3.1)."""

    num_images: float
    sigma_rel: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not 0 < self.sigma_rel < SIGMA_REL_LIMIT:
            raise WeightingError(f"sigma_rel {self.sigma_rel!r} must lie strictly between 0 and 12^-0.5 = 0.28867513")

    @functools.cached_property
    def gamma(self) -> float:
        return gamma_from_sigma_rel(self.sigma_rel)

    @property
    def components(self) -> Components:
        return ((1.0, PowerDensity(self.num_images, self.gamma)),)


@dataclass(frozen=True)
class ExponentialWeighting(Weighting):
    """A traditional exponential average. With `rampup_ratio` r, the half-life at time t is at most r * t.

    Up to the time half_life_images / r that limit holds, and the average is a power function of exponent ln 2 / r - 1.
    """

    num_images: float
    half_life_images: float
    rampup_ratio: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not self.half_life_images > 0:
            raise WeightingError(f"half_life_images {self.half_life_images!r} must be above 0")
        if self.rampup_ratio is not None and not 0 < self.rampup_ratio < math.log(2):
            raise WeightingError(f"rampup_ratio {self.rampup_ratio!r} must lie between 0 and ln 2 = 0.6931")

    @functools.cached_property
    def components(self) -> Components:
        rate = math.log(2) / self.half_life_images
        if self.rampup_ratio is None:
            # The rest of the mass, e^(-rate * num_images), stays on the initial weights.
            return ((-math.expm1(-rate * self.num_images), ExponentialDensity(0.0, self.num_images, rate)),)
        gamma = math.log(2) / self.rampup_ratio - 1
        ramp = self.half_life_images / self.rampup_ratio
        if ramp >= self.num_images:
            return ((1.0, PowerDensity(self.num_images, gamma)),)
        left = math.exp(-rate * (self.num_images - ramp))
        return ((left, PowerDensity(ramp, gamma)), (1 - left, ExponentialDensity(ramp, self.num_images, rate)))


@dataclass(frozen=True)
class UniformWeighting(Weighting):
    """The plain mean over the last `window_images` images, or over all images if there are fewer."""

    num_images: float
    window_images: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if not self.window_images > 0:
            raise WeightingError(f"window_images {self.window_images!r} must be above 0")

    @property
    def components(self) -> Components:
        return ((1.0, ExponentialDensity(max(0.0, self.num_images - self.window_images), self.num_images, 0.0)),)


@dataclass(frozen=True)
class SampledWeighting(Weighting):
    """Piecewise constant: `weights[i]` is the mass between times[i - 1] (0 for the first) and times[i].

    Weights are relative to their sum and may be negative. The last time is `num_images`.
    """

    num_images: float
    times: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        rising = all(a < b for a, b in zip((0.0, *self.times), self.times, strict=False))
        if not self.times or not rising or self.times[-1] != self.num_images:
            raise WeightingError(f"times must rise from above 0 to num_images {self.num_images:g}")
        if len(self.weights) != len(self.times) or not sum(self.weights) > 0:
            raise WeightingError(f"weights must be {len(self.times)} numbers, one for each time, of positive sum")

    @functools.cached_property
    def components(self) -> Components:
        total = math.fsum(self.weights)
        edges = zip((0.0, *self.times), self.times, self.weights, strict=False)
        return tuple((w / total, ExponentialDensity(start, end, 0.0)) for start, end, w in edges if w)


@dataclass(frozen=True)
class RawWeighting(Weighting):
    """The weights themselves at one time: an impulse, with a `tail` but no density and no inner products."""

    num_images: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)

    @property
    def components(self) -> Components:
        raise WeightingError("raw weights have an impulse for a profile: no plain inner product with it is finite")

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        return (np.asarray(t, dtype=np.float64) < self.num_images).astype(np.float64)


def _check_time(num_images: float) -> None:
    if not num_images > 0:
        raise WeightingError(f"num_images {num_images!r} must be above 0")
