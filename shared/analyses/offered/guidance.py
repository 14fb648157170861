"""`guidance`: a figure over EMA length and guidance weight (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phema.shared.analyses.analysis import Analysis, figure_name, measured
from phema.shared.analyses.selection import Selection
from phema.shared.analyses.tables import Row

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme


def _draw(selection: Selection, rows: Sequence[Row], theme: Theme, format: Format) -> bytes:
    from phema.shared.pictures.guidance_map import MapPoint, guidance_map

    # A map has one value per cell: with several runs, those of the run that is named first.
    points = [
        MapPoint(row.point.sigma_rel or 0.0, row.point.guidance, measured(row), row.compared.tied)
        for row in rows
        if row.point.run == selection.runs[0]
    ]
    return guidance_map(points, figure_name(selection), theme=theme, format=format)


ANALYSIS = Analysis(
    name="guidance",
    description="A figure over EMA length and guidance weight with one guide (Figure 6).",
    axes=frozenset({"sigma_rel", "guidance"}),
    draw=_draw,
    wanted="evaluations of power-function EMAs with guidance",
    keep=lambda point: point.sigma_rel is not None,
)
