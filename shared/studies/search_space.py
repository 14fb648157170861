"""The ranges of a search, and the points in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Point = tuple[float, ...]
"""One value per axis."""

_DIGITS = 3
"""Significant digits of values that a search chooses. A step of the last digit changes no figure measurably."""


@dataclass(frozen=True)
class Axis:
    """One searched field, from `low` to `high`; `logarithmic` for a field of which ratios matter, such as σ_rel."""

    name: str
    low: float
    high: float
    logarithmic: bool = True

    def to_unit(self, values: FloatArray) -> FloatArray:
        """Positions in the range: 0 is `low`, 1 is `high`."""
        low, high = self._scaled(np.array([self.low, self.high]))
        return np.asarray((self._scaled(values) - low) / (high - low), np.float64)

    def from_unit(self, position: float) -> float:
        """The value at a position, rounded to three digits, within the range."""
        if position <= 0 or position >= 1:
            return self.low if position <= 0 else self.high
        if self.logarithmic:
            value = self.low * (self.high / self.low) ** position
        else:
            value = self.low + (self.high - self.low) * position
        return min(max(_rounded(value), self.low), self.high)

    def _scaled(self, values: FloatArray) -> FloatArray:
        return np.log(values) if self.logarithmic else values


@dataclass(frozen=True)
class SearchSpace:
    """The product of the ranges of one to three axes."""

    axes: tuple[Axis, ...]

    @property
    def dimensions(self) -> int:
        return len(self.axes)

    def to_unit(self, points: Sequence[Point]) -> FloatArray:
        """[n, dimensions]: positions in the unit cube."""
        values = np.asarray(points, np.float64).reshape(len(points), self.dimensions)
        return np.stack([axis.to_unit(values[:, i]) for i, axis in enumerate(self.axes)], axis=1)

    def from_unit(self, position: FloatArray) -> Point:
        """The point at one position [dimensions]."""
        return tuple(axis.from_unit(float(u)) for axis, u in zip(self.axes, position, strict=True))

    def design(self, count: int) -> list[Point]:
        """`count` distinct points that cover the space evenly; on a single axis they include both ends."""
        if self.dimensions == 1:
            positions = np.linspace(0, 1, count)[:, None]
        else:
            positions = low_discrepancy(count, self.dimensions)
        return list(dict.fromkeys(self.from_unit(position) for position in positions))

    def candidates(self, centre: FloatArray | None = None) -> FloatArray:
        """[n, dimensions]: positions at which the model of the figure is asked for its minimum.

        One axis has an even grid. More have a low-discrepancy sequence, which reaches the faces of the cube, and a
        denser one around `centre`.
        """
        if self.dimensions == 1:
            return np.linspace(0, 1, 201)[:, None]
        wide = np.clip(low_discrepancy(300, self.dimensions) * 1.1 - 0.05, 0, 1)
        if centre is None:
            return wide
        near = np.clip(centre + (low_discrepancy(150, self.dimensions) - 0.5) * 0.3, 0, 1)
        return np.concatenate([wide, near, centre[None]])


def low_discrepancy(count: int, dimensions: int) -> FloatArray:
    """[count, dimensions] in (0, 1): the additive recurrence by powers of the generalised golden ratio (Roberts)."""
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1, dimensions + 1, dtype=np.float64)
    return np.asarray((0.5 + np.outer(np.arange(1, count + 1), steps)) % 1.0, np.float64)


def _rounded(value: float) -> float:
    if value == 0:
        return 0.0
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
