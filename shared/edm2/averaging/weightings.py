"""Weightings of training history, one class per kind, in float64 (Karras et al. 2024, Appendix C).

A weighting ends at `num_images` and weighs the network's weights theta(tau) at times 0 < tau <= num_images. Times count
images. All kinds are finite sums of normalised densities, but those of `ImpulseWeighting`, which are Dirac impulses.
`phema.shared.snapshots.profile.Profile` is how requests and files name a weighting.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.decay_shapes import SHAPES
from phema.shared.edm2.averaging.densities import DecayDensity, Density, ExponentialDensity, FloatArray, PowerDensity
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
        """Raises WeightingError for impulses."""
        raise NotImplementedError

    @property
    def square_integrable(self) -> bool:
        """Whether inner products with other weightings, and with itself, are finite."""
        return True

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
class DecayWeighting(Weighting):
    """The average that gives a run at constant learning rate a decay of this shape, from `start` to the end.

    An average scales the update made at time tau by its `tail` there. The tail is the decay's multiplier.
    """

    num_images: float
    start: float
    shape: str

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        if self.shape not in SHAPES:
            raise WeightingError(f"shape {self.shape!r} is unknown; allowed: {', '.join(SHAPES)}")
        if not 0 <= self.start < self.num_images:
            raise WeightingError(
                f"the decay starts at {self.start:g} images; it must start at 0 or later and before num_images "
                f"{self.num_images:g}"
            )

    @property
    def components(self) -> Components:
        if self.shape == "linear":  # with inner products in closed form
            return ((1.0, ExponentialDensity(self.start, self.num_images, 0.0)),)
        return ((1.0, DecayDensity(self.start, self.num_images, self.shape)),)

    @property
    def square_integrable(self) -> bool:
        return SHAPES[self.shape].square_integrable


@dataclass(frozen=True)
class MixtureWeighting(Weighting):
    """A linear combination of weightings that end at the same time. `shares` are relative to their sum.

    Shares may be negative. Raises WeightingError for parts of other times, or impulses among them.
    """

    parts: tuple[Weighting, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.parts or len({part.num_images for part in self.parts}) != 1:
            raise WeightingError("a mixture needs weightings that end at the same time")
        if any(isinstance(part, ImpulseWeighting) for part in self.parts):
            raise WeightingError("a mixture cannot hold raw weights")
        if len(self.shares) != len(self.parts) or not math.fsum(self.shares) > 0:
            raise WeightingError(f"shares must be {len(self.parts)} numbers, one for each part, of positive sum")

    @property
    def num_images(self) -> float:  # type: ignore[override]
        return self.parts[0].num_images

    @functools.cached_property
    def components(self) -> Components:
        total = math.fsum(self.shares)
        pairs = zip(self.parts, self.shares, strict=True)
        return tuple((share / total * mass, density) for part, share in pairs for mass, density in part.components)

    @property
    def square_integrable(self) -> bool:
        return all(part.square_integrable for part in self.parts)


class ImpulseWeighting(Weighting):
    """The weights themselves at one or more times: impulses, with a `tail` but no density and no inner products."""

    @property
    def components(self) -> Components:
        raise WeightingError("raw weights have an impulse for a profile: no plain inner product with it is finite")

    @property
    def square_integrable(self) -> bool:
        return False


@dataclass(frozen=True)
class TimesWeighting(ImpulseWeighting):
    """The plain mean of the weights themselves at `times`, which rise to `num_images`."""

    num_images: float
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_time(self.num_images)
        rising = all(a < b for a, b in zip((0.0, *self.times), self.times, strict=False))
        if not self.times or not rising or self.times[-1] != self.num_images:
            raise WeightingError(f"times must rise from above 0 to num_images {self.num_images:g}")

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        later = len(self.times) - np.searchsorted(np.array(self.times), np.asarray(t, dtype=np.float64), side="right")
        return np.asarray(later / len(self.times), dtype=np.float64)


@dataclass(frozen=True)
class RawWeighting(ImpulseWeighting):
    """The weights themselves at one time."""

    num_images: float

    def __post_init__(self) -> None:
        _check_time(self.num_images)

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        return (np.asarray(t, dtype=np.float64) < self.num_images).astype(np.float64)


def _check_time(num_images: float) -> None:
    if not num_images > 0:
        raise WeightingError(f"num_images {num_images!r} must be above 0")
