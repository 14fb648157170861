"""`tensors`: how a figure changes when some tensors have another EMA length (the paper's Figure 5b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phema.shared.analyses.analysis import Analysis, figure_name
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.selection import NothingToShow, Selection
from phema.shared.analyses.tables import Row
from phema.shared.metrics.figures import difference

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme


def pattern_of(point: EvaluatedPoint) -> tuple[str, float] | None:
    """The pattern of a profile that gives one group of tensors another σ_rel, and that σ_rel; None for others."""
    tensors = point.profile.tensors or ()
    if len(tensors) != 1 or point.profile.default is None or point.profile.default.sigma_rel is None:
        return None
    width = tensors[0].profile.sigma_rel
    return None if width is None else (tensors[0].pattern, width)


def _keep(point: EvaluatedPoint) -> bool:
    return point.sigma_rel is not None or pattern_of(point) is not None


def _draw(selection: Selection, rows: Sequence[Row], theme: Theme, format: Format) -> bytes:
    from phema.shared.pictures.measured import CurvePoint, Measured
    from phema.shared.pictures.tensor_sensitivity import TensorCurve, tensor_sensitivity

    run = selection.runs[0]
    mine = [row for row in rows if row.point.run == run]
    baseline = next((row for row in mine if row.point.sigma_rel is not None), None)
    if baseline is None:
        raise NothingToShow(f"run {run} has no finished evaluation with one EMA length for all tensors to compare with")
    by_pattern: dict[str, list[CurvePoint]] = {}
    for row in mine:
        found = pattern_of(row.point)
        if found is not None:
            gap, error = difference(row.compared.value, baseline.compared.value)
            by_pattern.setdefault(found[0], []).append(CurvePoint(found[1], Measured(gap, error)))
    curves = [TensorCurve(pattern, points) for pattern, points in by_pattern.items()]
    width = baseline.point.sigma_rel or 0.0
    return tensor_sensitivity(curves, width, figure_name(selection), theme=theme, format=format)


ANALYSIS = Analysis(
    name="tensors",
    description="Change of a figure when the tensors of one pattern have another EMA length (Figure 5b).",
    axes=frozenset({"tensors"}),
    draw=_draw,
    wanted="evaluations of profiles with one pattern of tensors",
    keep=_keep,
)
