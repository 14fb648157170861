"""What a search has found, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from phema.shared.studies.curve_model import CurveModel
from phema.shared.studies.search_space import FloatArray, Point, SearchSpace

_SAMPLES = 2000
_COVERED = 0.98
"""Share of the model's samples of the minimum that the interval contains. In simulations, the minimum lay in such an
interval in 87 to 100 % of the searches: on curves with a flat bottom the model is too sure."""
_SIGNIFICANT = 2.0
"""Standard errors from which on a difference counts."""
_AT_EDGE = 0.02
"""Share of a range from its end that counts as its edge."""
_CURVE_POINTS = 41


@dataclass(frozen=True)
class CurvePoint:
    """The model at one point. The errors are standard deviations."""

    point: Point
    value: float
    """The figure, as an evaluation with the confirmation's number of pictures would measure it."""
    difference: float
    """Above the answer; at a better point negative for "lower", positive for "higher" figures."""
    difference_error: float


@dataclass(frozen=True)
class Answer:
    """The best point."""

    point: Point
    value: float
    """Its figure from pictures of fresh seeds."""
    standard_error: float | None
    num_samples: int
    """Pictures of that figure."""
    seed: int
    interval: tuple[tuple[float, float], ...]
    """Per axis: where the minimum lies with a probability of 95 %."""
    edges: tuple[str | None, ...]
    """Per axis: "low" or "high" if the best point lies at that end of the range."""
    open_ends: tuple[tuple[str, ...], ...]
    """Per axis: the ends of the range that the interval includes."""
    indistinguishable: tuple[CurvePoint, ...]
    """Evaluated points whose difference from the answer is below two standard errors."""
    curve: tuple[CurvePoint, ...]
    """The model: along the axis, or along each axis through the answer, one axis after the other."""
    pictures: int
    """Pictures that the whole search drew."""

    def document(self, space: SearchSpace) -> dict[str, Any]:
        """As JSON, with the names of the axes."""
        names = [axis.name for axis in space.axes]

        def entry(one: CurvePoint) -> dict[str, Any]:
            return {
                "point": dict(zip(names, one.point, strict=True)),
                "value": one.value,
                "difference": one.difference,
                "difference_error": one.difference_error,
            }

        return {
            "point": dict(zip(names, self.point, strict=True)),
            "value": self.value,
            "standard_error": self.standard_error,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "interval": {name: list(pair) for name, pair in zip(names, self.interval, strict=True)},
            "at_edge": {name: edge for name, edge in zip(names, self.edges, strict=True) if edge is not None},
            "interval_reaches": {name: list(ends) for name, ends in zip(names, self.open_ends, strict=True) if ends},
            "indistinguishable": [entry(one) for one in self.indistinguishable],
            "curve": [entry(one) for one in self.curve],
            "pictures": self.pictures,
        }


def answer(space: SearchSpace, better: str, model: CurveModel, fresh_seed: int, pictures: int) -> Answer:
    """The answer after the confirmation on the pictures from `fresh_seed` on; that of earlier steps if it failed."""
    seeds = [o.seed for o in model.observations]
    final = [o for o in model.observations if o.seed == (fresh_seed if fresh_seed in seeds else seeds[0])]
    largest = max(o.num_samples for o in final)
    final = [o for o in final if o.num_samples == largest]
    positions = np.array([o.position for o in final])
    best = final[int(model.belief(positions).mean.argmin())]
    centre = np.array(best.position)
    point = space.from_unit(centre)
    sign = 1.0 if better == "lower" else -1.0
    minima = _minima(space, model, centre, fresh_seed)
    tail = (1 - _COVERED) / 2
    low, high = np.quantile(minima, tail, axis=0), np.quantile(minima, 1 - tail, axis=0)
    lows, highs = space.from_unit(np.minimum(low, centre)), space.from_unit(np.maximum(high, centre))
    known = np.unique(np.array([o.position for o in model.observations]), axis=0)
    compared = _compared(space, model, centre, known, best.figure.value, sign)
    return Answer(
        point=point,
        value=sign * best.figure.value,
        standard_error=best.figure.standard_error,
        num_samples=best.num_samples,
        seed=best.seed,
        interval=tuple(zip(lows, highs, strict=True)),
        edges=tuple(_edge(float(u)) for u in centre),
        open_ends=tuple(
            tuple(end for end, there in (("low", a <= axis.low), ("high", b >= axis.high)) if there)
            for a, b, axis in zip(lows, highs, space.axes, strict=True)
        ),
        indistinguishable=tuple(
            one for one in compared if one.point != point and abs(one.difference) < _SIGNIFICANT * one.difference_error
        ),
        curve=tuple(_compared(space, model, centre, _lines(space, centre), best.figure.value, sign)),
        pictures=pictures,
    )


def _minima(space: SearchSpace, model: CurveModel, centre: FloatArray, seed: int) -> FloatArray:
    candidates = space.candidates(centre)
    return candidates[model.belief(candidates).minima(_SAMPLES, seed)]


def _edge(position: float) -> str | None:
    return "low" if position <= _AT_EDGE else "high" if position >= 1 - _AT_EDGE else None


def _lines(space: SearchSpace, centre: FloatArray) -> FloatArray:
    """Positions along each axis through the centre."""
    lines = []
    for axis in range(space.dimensions):
        line = np.repeat(centre[None], _CURVE_POINTS, axis=0)
        line[:, axis] = np.linspace(0, 1, _CURVE_POINTS)
        lines.append(line)
    return np.concatenate(lines)


def _compared(
    space: SearchSpace, model: CurveModel, centre: FloatArray, positions: FloatArray, value: float, sign: float
) -> list[CurvePoint]:
    """The model at positions, relative to the answer's. `value` is the answer's figure, lower is better."""
    belief = model.belief(np.concatenate([centre[None], positions]))
    differences, errors = belief.mean - belief.mean[0], belief.difference_error(0)
    return [
        CurvePoint(space.from_unit(position), sign * (value + float(d)), sign * float(d), float(error))
        for position, d, error in zip(positions, differences[1:], errors[1:], strict=True)
    ]
