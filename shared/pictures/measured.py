"""Plain data of the pictures of measured figures: values with their standard errors, along curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measured:
    """A value and its standard error; None if unknown."""

    value: float
    standard_error: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """A measured value at one place of a curve.

    `tied`: the value cannot be told from the best one within the errors. The best one is tied, too.
    """

    x: float
    measured: Measured
    tied: bool = False


@dataclass(frozen=True)
class Curve:
    """Measured values along one axis. `reference` is a value that belongs to no place, drawn as a level line."""

    label: str
    points: Sequence[CurvePoint]
    reference: Measured | None = None
    reference_label: str = ""


@dataclass(frozen=True)
class FigureName:
    """The figure that a picture shows."""

    title: str
    better: Literal["lower", "higher"] = "lower"

    def best(self, values: Sequence[float]) -> int:
        """Index of the best of `values`, of which there must be one."""
        return values.index(min(values) if self.better == "lower" else max(values))
