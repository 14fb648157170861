"""`ema-length`: a figure over the EMA length, for one or more runs (the paper's Figure 5a)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phema.shared.analyses.analysis import Analysis, figure_name, measured
from phema.shared.analyses.comparison import compare
from phema.shared.analyses.selection import Selection
from phema.shared.analyses.tables import Row

if TYPE_CHECKING:
    from phema.shared.pictures.measured import Curve
    from phema.shared.pictures.theme import Format, Theme


def _draw(selection: Selection, rows: Sequence[Row], theme: Theme, format: Format) -> bytes:
    from phema.shared.pictures.measured_curves import measured_curves

    return measured_curves(curves_by_run(selection, rows), figure_name(selection), theme=theme, format=format)


def curves_by_run(selection: Selection, rows: Sequence[Row]) -> list[Curve]:
    """One curve over the EMA length per run. Points are tied with the best of their own run."""
    from phema.shared.pictures.measured import Curve, CurvePoint

    curves = []
    for run in selection.runs:
        mine = [row for row in rows if row.point.run == run and row.point.sigma_rel is not None]
        ties = compare([row.compared.value for row in mine], selection.better)
        points = [
            CurvePoint(row.point.sigma_rel or 0.0, measured(row), beside.tied)
            for row, beside in zip(mine, ties, strict=True)
        ]
        curves.append(Curve(run, points))
    return curves


ANALYSIS = Analysis(
    name="ema-length",
    description="A figure over the EMA length σ_rel, one curve per run (Figure 5a).",
    axes=frozenset({"sigma_rel"}),
    draw=_draw,
    wanted="evaluations of power-function EMAs",
    keep=lambda point: point.sigma_rel is not None,
)
