"""From the rows of a search's points to what its numerics need, and the answer as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from phema.shared.metrics.figures import FigureValue
from phema.shared.studies.outcome import EvaluatedPoint
from phema.shared.studies.point import StudyPointSpec
from phema.shared.studies.ranking import value_of
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.studies.search_steps import Evaluated

_NAMED = 3
"""Points that a sentence names one by one."""


class SearchedPoint(EvaluatedPoint, Protocol):
    """A row of `study_points` of a search."""

    @property
    def stage(self) -> int: ...


def evaluated_points(
    spec: SearchSpec, points: Sequence[SearchedPoint], replicates: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[Evaluated]:
    """The settled points. `replicates`: by evaluation id and figure."""
    assert spec.figure is not None
    found = []
    for row in points:
        figure: FigureValue | None = None
        evaluation = row.evaluation
        if evaluation is not None and evaluation.figures is not None:
            figure = value_of(spec.figure, evaluation.figures, evaluation.errors, replicates.get(evaluation.id, {}))
        elif row.error is None:
            continue
        point = StudyPointSpec.model_validate(row.point)
        recipe = point.recipe
        found.append(Evaluated(row.stage, spec.position(point), recipe["num_samples"], recipe["seed"], figure))
    return found


def answer_document(spec: SearchSpec, found: Answer) -> dict[str, Any]:
    """As JSON, for the study's `result`."""
    return {"figure": spec.figure, **found.document(spec.space), "sentence": sentence(spec, found)}


def sentence(spec: SearchSpec, found: Answer) -> str:
    """The answer for people."""
    axes = spec.space.axes
    shown = f"{found.value:.4g}" + ("" if found.standard_error is None else f" ± {found.standard_error:.2g}")
    place = " and ".join(
        f"{axis.name} {value:g} ({low:g} to {high:g} with 95 % probability)"
        for axis, value, (low, high) in zip(axes, found.point, found.interval, strict=True)
    )
    parts = [f"{spec.figure} is best at {place}: {shown} for {found.num_samples:,} pictures"]
    if near := found.indistinguishable:
        names = [" ".join(f"{axis.name} {v:g}" for axis, v in zip(axes, one.point, strict=True)) for one in near]
        more = f" and {len(near) - _NAMED} more evaluated points" if len(near) > _NAMED else ""
        parts.append(f"it cannot be told from {', '.join(names[:_NAMED])}{more}")
    for axis, edge, ends in zip(axes, found.edges, found.open_ends, strict=True):
        if edge is not None:
            parts.append(f"it lies at the {edge} edge of the range of {axis.name}, so search further there")
        elif ends:
            parts.append(f"the best {axis.name} may lie beyond the {' and the '.join(ends)} end of the range")
    parts.append(f"the search drew {found.pictures:,} pictures")
    return "; ".join(parts)
