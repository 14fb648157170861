"""Which point of a study is best, and how sure that is. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phema.shared.metrics.figures import FigureValue, difference

DECISIVE = 2.0
"""A difference below so many of its standard errors does not decide which of two points is better."""
_SEARCHED = ("sigma_rel", "guidance", "guide.sigma_rel", "guide.num_images")
"""Axes for which "at the edge of the range" means that the optimum may lie outside. More steps or more training are
expected to help, so these are not among them."""


@dataclass(frozen=True)
class ScoredPoint:
    """A point with its figure."""

    number: int
    value: FigureValue
    seed: int
    num_samples: int
    coordinates: Mapping[str, Any]
    """Values on the axes, by name; None where a point has none."""


@dataclass(frozen=True)
class Comparison:
    """How much worse than the best a point is: positive is worse, in the figure's unit."""

    difference: float
    standard_error: float | None
    """Of the difference; None if one of the points has too few pictures to tell."""

    @property
    def decided(self) -> bool | None:
        """Whether the best is better beyond the error; None if the error is unknown."""
        return None if self.standard_error is None else self.difference > DECISIVE * self.standard_error


@dataclass(frozen=True)
class Ranking:
    best: ScoredPoint
    comparisons: dict[int, Comparison]
    """By number, of the other points that can be compared with the best."""
    edges: dict[str, Literal["lowest", "highest"]]
    """Axes on which the best has the lowest or highest value of the study."""

    @property
    def indistinct(self) -> list[int]:
        """Numbers of the points that the best cannot be told from."""
        return [number for number, one in self.comparisons.items() if one.decided is False]


def rank(points: Sequence[ScoredPoint], better: Literal["lower", "higher"]) -> Ranking | None:
    """The ranking of the points; None without points.

    Only points with the largest number of pictures are ranked, since a Fréchet distance depends on that number. Points
    with equal seeds are compared replicate by replicate, others as independent.
    """
    largest = max((point.num_samples for point in points), default=0)
    candidates = [point for point in points if point.num_samples == largest]
    if not candidates:
        return None
    sign = 1.0 if better == "lower" else -1.0
    best = min(candidates, key=lambda point: (sign * point.value.value, point.number))
    comparisons = {point.number: _compare(point, best, sign) for point in candidates if point is not best}
    return Ranking(best, comparisons, _edges(best, candidates))


def value_of(figure: str, figures: Mapping[str, float], errors: Any, replicates: Any) -> FigureValue:
    """The figure of an evaluation's columns; errors and replicates may be missing."""
    return FigureValue(figures[figure], (errors or {}).get(figure), tuple((replicates or {}).get(figure, ())))


def _compare(point: ScoredPoint, best: ScoredPoint, sign: float) -> Comparison:
    a, b = point.value, best.value
    if point.seed != best.seed:
        a, b = FigureValue(a.value, a.standard_error), FigureValue(b.value, b.standard_error)
    value, error = difference(a, b)
    return Comparison(sign * value, error)


def _edges(best: ScoredPoint, points: Iterable[ScoredPoint]) -> dict[str, Literal["lowest", "highest"]]:
    found: dict[str, Literal["lowest", "highest"]] = {}
    for name in _SEARCHED:
        values = sorted({v for p in points if (v := p.coordinates.get(name)) is not None})
        own = best.coordinates.get(name)
        if len(values) < 2 or own is None:
            continue
        if own == values[0]:
            found[name] = "lowest"
        elif own == values[-1]:
            found[name] = "highest"
    return found
