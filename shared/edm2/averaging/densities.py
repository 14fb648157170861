"""The normalised densities of time that weightings of training history are sums of. NumPy in float64.

Times count images. A density is 0 outside its interval, which is open at its start and closed at its end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phema.shared.edm2.averaging.decay_shapes import SHAPES
from phema.shared.edm2.averaging.decay_shapes import FloatArray as FloatArray


class PowerDensity(NamedTuple):
    """(gamma + 1) / end * (tau / end)^gamma on (0, end]."""

    end: float
    gamma: float

    def density(self, times: FloatArray) -> FloatArray:
        """Weight per image at `times`."""
        inside, inner = _inside(times, 0.0, self.end)
        values = (self.gamma + 1) / self.end * (inner / self.end) ** self.gamma
        return np.where(inside, values, 0.0)

    def tail(self, times: FloatArray) -> FloatArray:
        """Integral over all times after `times`."""
        ratio = np.clip(times / self.end, 0.0, 1.0)
        return np.asarray(1 - ratio ** (self.gamma + 1))


class ExponentialDensity(NamedTuple):
    """Proportional to e^(rate * tau) on (start, end], with integral 1; constant if `rate` is 0."""

    start: float
    end: float
    rate: float

    @property
    def height(self) -> float:
        """Density at `end`."""
        length = self.end - self.start
        return self.rate / -math.expm1(-self.rate * length) if self.rate * length > 1e-12 else 1 / length

    def density(self, times: FloatArray) -> FloatArray:
        """Weight per image at `times`."""
        inside, inner = _inside(times, self.start, self.end)
        values = self.height * np.exp(-self.rate * (self.end - inner))
        return np.where(inside, values, 0.0)

    def tail(self, times: FloatArray) -> FloatArray:
        """Integral over all times after `times`."""
        left = np.clip(self.end - times, 0.0, self.end - self.start)
        if self.rate * (self.end - self.start) > 1e-12:
            return np.asarray(self.height / self.rate * -np.expm1(-self.rate * left))
        return np.asarray(self.height * left)


class DecayDensity(NamedTuple):
    """Minus the derivative of a learning-rate decay of this shape over (start, end]."""

    start: float
    end: float
    shape: str

    def density(self, times: FloatArray) -> FloatArray:
        """Weight per image at `times`."""
        inside, inner = _inside(times, self.start, self.end)
        length = self.end - self.start
        return np.where(inside, SHAPES[self.shape].slope((inner - self.start) / length) / length, 0.0)

    def tail(self, times: FloatArray) -> FloatArray:
        """Integral over all times after `times`: the multiplier of the learning rate."""
        share = np.clip((times - self.start) / (self.end - self.start), 0.0, 1.0)
        return SHAPES[self.shape].multiplier(share)


Density = PowerDensity | ExponentialDensity | DecayDensity


def _inside(times: FloatArray, start: float, end: float) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Which times lie in (start, end]; and the times, with `end` in place of all others so that no power overflows."""
    inside = (times > start) & (times <= end)
    return inside, np.where(inside, times, end)
