"""Analyses as tables: one row per evaluation, with the difference to the best row. JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phema.shared.analyses.comparison import Compared, compare
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.selection import Selection

COLUMNS = (
    *("run", "num_images", "label", "sigma_rel", "guidance", "guidance_low", "guidance_high"),
    *("guide_run", "guide_num_images", "guide_sigma_rel", "num_samples"),
    *("figure", "value", "standard_error", "difference", "difference_error", "best", "tied"),
    *("reconstruction_id", "evaluation_id"),
)
"""Columns of every analysis's table. Fields that a row does not have are empty (null in JSON)."""


@dataclass(frozen=True)
class Row:
    """One evaluation and its comparison with the best one of the table."""

    point: EvaluatedPoint
    figure: str
    compared: Compared

    def document(self) -> dict[str, Any]:
        """One value per column of COLUMNS."""
        point, value = self.point, self.compared.value
        low, high = point.interval or (None, None)
        guide = point.guide
        return {
            "run": point.run,
            "num_images": point.num_images,
            "label": point.profile.label,
            "sigma_rel": point.sigma_rel,
            "guidance": point.guidance,
            "guidance_low": low,
            "guidance_high": high,
            "guide_run": guide.run if guide else None,
            "guide_num_images": guide.num_images if guide else None,
            "guide_sigma_rel": guide.profile.sigma_rel if guide else None,
            "num_samples": point.recipe.get("num_samples"),
            "figure": self.figure,
            "value": value.value,
            "standard_error": value.standard_error,
            "difference": self.compared.difference,
            "difference_error": self.compared.difference_error,
            "best": self.compared.is_best,
            "tied": self.compared.tied,
            "reconstruction_id": point.reconstruction_id,
            "evaluation_id": point.evaluation_id,
        }


def rows_of(selection: Selection) -> list[Row]:
    """The points of the selection beside the best of all of them, in order of run, time, guidance and EMA length."""
    points = sorted(selection.points, key=lambda point: _order(point, selection.runs))
    compared = compare([point.figures[selection.figure] for point in points], selection.better)
    return [Row(point, selection.figure, beside) for point, beside in zip(points, compared, strict=True)]


def as_csv(rows: Sequence[Row]) -> str:
    """Comma-separated values with a line of column names, and `\\n` at the end of each line (RFC 4180 otherwise)."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.document().items()})
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    # A spreadsheet would compute a text that starts like a formula; names of runs cannot, labels of patterns can.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _order(point: EvaluatedPoint, runs: Sequence[str]) -> tuple[Any, ...]:
    width = point.sigma_rel
    guide = point.guide.label if point.guide else ""
    interval = point.interval or (0.0, float("inf"))
    known = (0, width, "") if width is not None else (1, 0.0, point.profile.label)
    return (runs.index(point.run), point.num_images, guide, point.guidance, interval, known)
