"""What an analysis is: which evaluations it compares, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phema.shared.analyses.evaluated_points import EvaluatedPoint
from phema.shared.analyses.selection import Axis, Selection
from phema.shared.analyses.tables import Row
from phema.shared.metrics.registry import FIGURES

if TYPE_CHECKING:
    from phema.shared.pictures.measured import FigureName, Measured
    from phema.shared.pictures.theme import Format, Theme


_OBVIOUS = " between drawn and training pictures"
"""Left out of headings."""


@dataclass(frozen=True)
class Analysis:
    """One way to look at evaluations."""

    name: str
    """As commands and paths name it."""
    description: str
    """What it shows, in one line, with the paper's figure."""
    axes: frozenset[Axis]
    draw: Callable[[Selection, Sequence[Row], Theme, Format], bytes]
    """The picture. It imports matplotlib."""
    wanted: str
    """The evaluations that it needs, for the error that there are none."""
    keep: Callable[[EvaluatedPoint], bool] = lambda point: True
    trim: Callable[[Sequence[EvaluatedPoint]], Sequence[EvaluatedPoint]] = lambda points: points
    """Leaves out points of the group that would make it unfair."""


def figure_name(selection: Selection) -> FigureName:
    """The studied figure, for pictures."""
    from phema.shared.pictures.measured import FigureName

    return FigureName(figure_title(selection.figure), selection.better)


def figure_title(figure: str) -> str:
    """The name of a figure as a heading."""
    known = FIGURES.get(figure)
    words = known.description.replace(_OBVIOUS, "") if known is not None else figure
    return words[:1].upper() + words[1:]


def measured(row: Row) -> Measured:
    """The value of a row, for pictures."""
    from phema.shared.pictures.measured import Measured

    return Measured(row.compared.value.value, row.compared.value.standard_error)
