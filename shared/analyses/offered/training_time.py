"""`training-time`: the best value and its EMA length over training (the paper's Figure 5c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phema.shared.analyses.analysis import Analysis, figure_name, measured
from phema.shared.analyses.comparison import compare
from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.selection import Selection
from phema.shared.analyses.tables import Row

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme
    from phema.shared.pictures.training_time import BestAtTime


def _draw(selection: Selection, rows: Sequence[Row], theme: Theme, format: Format) -> bytes:
    from phema.shared.pictures.training_time import BestOverTime, best_over_training_time

    runs = []
    for run in selection.runs:
        times = sorted({row.point.num_images for row in rows if row.point.run == run})
        of_run = [[row for row in rows if row.point.run == run and row.point.num_images == time] for time in times]
        runs.append(BestOverTime(run, [_best(selection, mine) for mine in of_run]))
    return best_over_training_time(runs, figure_name(selection), theme=theme, format=format)


def _best(selection: Selection, rows: Sequence[Row]) -> BestAtTime:
    """The best of all lengths at one time of one run."""
    from phema.shared.pictures.training_time import BestAtTime

    compared = compare([row.compared.value for row in rows], selection.better)
    best = next(row for row, beside in zip(rows, compared, strict=True) if beside.is_best)
    tied = [row.point.sigma_rel or 0.0 for row, beside in zip(rows, compared, strict=True) if beside.tied]
    return BestAtTime(best.point.num_images, measured(best), best.point.sigma_rel or 0.0, min(tied), max(tied))


def _lengths_of_all_times(points: Sequence[EvaluatedPoint]) -> list[EvaluatedPoint]:
    """Of each run, the lengths that were evaluated at all of its times; all points if there is none.

    The best of more lengths is better by chance.
    """
    kept: list[EvaluatedPoint] = []
    for run in dict.fromkeys(point.run for point in points):
        mine = [point for point in points if point.run == run]
        by_time: dict[int, set[float | None]] = {}
        for point in mine:
            by_time.setdefault(point.num_images, set()).add(point.sigma_rel)
        common = set.intersection(*by_time.values())
        kept += [point for point in mine if point.sigma_rel in common] or mine
    return kept


ANALYSIS = Analysis(
    name="training-time",
    description="The best value of a figure over training time, and the EMA length at which it lies (Figure 5c).",
    axes=frozenset({"sigma_rel", "num_images"}),
    draw=_draw,
    wanted="evaluations of power-function EMAs",
    keep=lambda point: point.sigma_rel is not None,
    trim=_lengths_of_all_times,
)
