"""What the evaluations of a report say, before it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from phema.shared.analyses.analysis import figure_title
from phema.shared.analyses.comparison import Compared, compare
from phema.shared.analyses.kinds import ANALYSES, Analysed, analyse
from phema.shared.analyses.selection import NothingToShow
from phema.shared.analyses.tables import Row
from phema.shared.reports.inputs import ReportedRun, ReportInputs

SECOND_FIGURES = ("held_out_loss", "frechet")
"""A figure that is shown beside the ranking one: the first of these that the evaluations have."""


@dataclass(frozen=True)
class RunRows:
    """Evaluations of one run over the EMA length, in order of length, each beside the best of this run."""

    run: ReportedRun
    rows: Sequence[Row]
    compared: Sequence[Compared]

    @property
    def best(self) -> Row:
        return next(row for row, beside in zip(self.rows, self.compared, strict=True) if beside.is_best)

    @property
    def tied(self) -> list[Row]:
        """Rows that cannot be told from the best, without the best."""
        pairs = zip(self.rows, self.compared, strict=True)
        return [row for row, beside in pairs if beside.tied and not beside.is_best]

    @property
    def at_the_edge(self) -> bool:
        """The best length is the shortest or the longest that was tried, and more than one was."""
        return len(self.rows) > 1 and self.best in (self.rows[0], self.rows[-1])


@dataclass(frozen=True)
class Findings:
    """Figures over the EMA length of all runs, from evaluations that can be compared."""

    inputs: ReportInputs
    lengths: Analysed | None
    """None without a finished evaluation."""

    @classmethod
    def of(cls, inputs: ReportInputs) -> Findings:
        try:
            return cls(inputs, analyse(ANALYSES["ema-length"], inputs.points))
        except NothingToShow:
            return cls(inputs, None)

    @cached_property
    def by_run(self) -> list[RunRows]:
        """Runs with evaluations, in the order of the report."""
        if self.lengths is None:
            return []
        found = []
        for run in self.inputs.runs:
            rows = [row for row in self.lengths.rows if row.point.run == run.name]
            if rows:
                found.append(RunRows(run, rows, compare([r.compared.value for r in rows], self.better)))
        return found

    @cached_property
    def winners(self) -> list[tuple[RunRows, Compared]]:
        """The best row of each run beside the best of all, best first."""
        compared = compare([one.best.compared.value for one in self.by_run], self.better)
        pairs = zip(self.by_run, compared, strict=True)
        return sorted(pairs, key=lambda pair: pair[1].difference if self.better == "lower" else -pair[1].difference)

    @property
    def better(self) -> Literal["lower", "higher"]:
        assert self.lengths is not None, "asked only when there are rows"
        return self.lengths.selection.better

    @property
    def figure(self) -> str:
        return self.lengths.selection.figure if self.lengths else ""

    @property
    def title(self) -> str:
        return figure_title(self.figure)

    @property
    def second(self) -> str | None:
        """A second figure that every row has."""
        rows = self.lengths.rows if self.lengths else []
        for name in SECOND_FIGURES:
            if name != self.figure and rows and all(name in row.point.figures for row in rows):
                return name
        return None
