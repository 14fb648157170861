"""Every analysis by name, and what an analysis of evaluations gives: rows, JSON, CSV, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phema.shared.analyses.analysis import Analysis, figure_title
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.offered import autoguidance, ema_length, guidance, interval, tensors, training_time
from phema.shared.analyses.selection import Selection, select
from phema.shared.analyses.tables import Row, rows_of

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme

ANALYSES: dict[str, Analysis] = {
    module.ANALYSIS.name: module.ANALYSIS
    for module in (ema_length, tensors, training_time, guidance, autoguidance, interval)
}


@dataclass(frozen=True)
class Analysed:
    """One analysis of finished evaluations."""

    analysis: Analysis
    selection: Selection
    rows: Sequence[Row]

    def document(self) -> dict[str, Any]:
        """As JSON: the figure, what all rows share, and the rows."""
        return {
            "analysis": self.analysis.name,
            "description": self.analysis.description,
            "figure": self.selection.figure,
            "title": figure_title(self.selection.figure),
            "better": self.selection.better,
            "runs": list(self.selection.runs),
            "recipe": self.selection.recipe,
            "left_out": self.selection.left_out,
            "rows": [row.document() for row in self.rows],
        }

    def with_points(self, points: Sequence[EvaluatedPoint]) -> Analysed:
        """The same analysis of the same points, to which replicates were added."""
        selection = replace(self.selection, points=tuple(points))
        return replace(self, selection=selection, rows=rows_of(selection))

    def picture(self, theme: Theme, format: Format) -> bytes:
        """PNG or SVG. Raises NothingToShow."""
        return self.analysis.draw(self.selection, self.rows, theme, format)


def analyse(
    analysis: Analysis,
    points: Sequence[EvaluatedPoint],
    *,
    figure: str | None = None,
    num_images: int | None = None,
) -> Analysed:
    """Analyse finished evaluations, newest first. Raises NothingToShow. Arguments as `select`."""
    chosen = select(
        points, analysis.axes, figure=figure, num_images=num_images, keep=analysis.keep, wanted=analysis.wanted
    )
    fair = tuple(analysis.trim(chosen.points))
    chosen = replace(chosen, points=fair, left_out=chosen.left_out + len(chosen.points) - len(fair))
    return Analysed(analysis, chosen, rows_of(chosen))
