"""What the points of a study say so far: figures, the ranking, and the answer in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from phema.shared.metrics.metric import Figure
from phema.shared.metrics.registry import ranking_figure
from phema.shared.studies.point import StudyPointSpec
from phema.shared.studies.ranking import Ranking, ScoredPoint, rank, value_of

_NAMED = 5
"""Points that a sentence names one by one."""


class EvaluatedPoint(Protocol):
    """A row of `study_points`, as far as it is read here."""

    @property
    def number(self) -> int: ...

    @property
    def point(self) -> dict[str, Any]: ...

    @property
    def error(self) -> str | None: ...

    @property
    def evaluation(self) -> Any: ...


@dataclass(frozen=True)
class Outcome:
    """The ranking of the points that have figures."""

    figure: Figure | None
    """By which points are ranked; None before the first figures."""
    ranking: Ranking | None
    specs: dict[int, StudyPointSpec]
    """By number, of the ranked points."""
    failed: int
    """Points without figures that have an error."""

    def document(self) -> dict[str, Any]:
        """As JSON, for the study's `result`. There must be a ranking."""
        assert self.ranking is not None
        assert self.figure is not None
        best = self.ranking.best
        return {
            "figure": self.figure.name,
            "better": self.figure.better,
            "best": best.number,
            "value": best.value.value,
            "standard_error": best.value.standard_error,
            "indistinct": self.ranking.indistinct,
            "edges": self.ranking.edges,
            "failed": self.failed,
            "sentence": self.sentence,
        }

    @property
    def sentence(self) -> str:
        """The answer for people."""
        assert self.ranking is not None
        assert self.figure is not None
        best = self.ranking.best
        error = best.value.standard_error
        shown = f"{best.value.value:.4g}" + ("" if error is None else f" ± {error:.2g}")
        parts = [f"{self.figure.name} is best at {self._name(best.number)}: {shown}"]
        if near := self.ranking.indistinct:
            named = ", ".join(self._name(number) for number in near[:_NAMED])
            more = f" and {len(near) - _NAMED} more" if len(near) > _NAMED else ""
            parts.append(f"it cannot be told from {named}{more}")
        elif self.ranking.comparisons and any(c.decided is None for c in self.ranking.comparisons.values()):
            parts.append("the figures have no standard errors, so the difference to the others is not known")
        parts += [f"it lies at the {side} {axis} of the range" for axis, side in self.ranking.edges.items()]
        return "; ".join(parts)

    @cached_property
    def _varying(self) -> list[str]:
        """Coordinates that differ between points."""
        values: dict[str, set[Any]] = {}
        for spec in self.specs.values():
            for name, value in spec.coordinates.items():
                values.setdefault(name, set()).add(value)
        return [name for name, found in values.items() if len(found) > 1]

    def _name(self, number: int) -> str:
        """The point by the coordinates that vary in the study."""
        coordinates = self.specs[number].coordinates
        shown = [
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:g}"
            for name in self._varying
            if (value := coordinates[name]) is not None
        ]
        return " ".join(shown) if shown else f"point {number}"


def figure_of(points: Sequence[EvaluatedPoint]) -> Figure | None:
    """The figure by which the points are ranked: all that are done have it. Its replicates are the ones needed."""
    done = _done(points)
    names = set(done[0].evaluation.figures).intersection(*(p.evaluation.figures for p in done[1:])) if done else set()
    return ranking_figure(names)


def _done(points: Sequence[EvaluatedPoint]) -> list[EvaluatedPoint]:
    return [point for point in points if point.evaluation is not None and point.evaluation.figures]


def study_outcome(points: Sequence[EvaluatedPoint], replicates: Mapping[str, Mapping[str, Sequence[float]]]) -> Outcome:
    """The outcome of the points that have figures now.

    `replicates`: by evaluation id and figure; those of `figure_of(points)` suffice.
    """
    done = _done(points)
    numbers = {point.number for point in done}
    failed = sum(point.error is not None for point in points if point.number not in numbers)
    figure = figure_of(points)
    if figure is None:
        return Outcome(None, None, {}, failed)
    specs = {point.number: StudyPointSpec.model_validate(point.point) for point in done}
    scored = [
        ScoredPoint(
            point.number,
            value_of(
                figure.name,
                point.evaluation.figures,
                point.evaluation.errors,
                replicates.get(point.evaluation.id, {}),
            ),
            specs[point.number].recipe["seed"],
            specs[point.number].recipe["num_samples"],
            specs[point.number].coordinates,
        )
        for point in done
    ]
    return Outcome(figure, rank(scored, figure.better), specs, failed)
