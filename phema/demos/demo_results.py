"""Everything that `phema demo` measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phema.client.resources.analyses import Analysis, AnalysisRow
from phema.client.response_models import Run
from phema.client.study_models import SearchResult


@dataclass(frozen=True)
class TrainedRun:
    """One of the demo's runs, and its rows of the analysis, in order of EMA length."""

    run: Run
    rows: Sequence[AnalysisRow]
    better: str

    @property
    def best(self) -> AnalysisRow:
        choose = min if self.better == "lower" else max
        return choose(self.rows, key=lambda row: row.value)


@dataclass(frozen=True)
class DemoResults:
    """The runs, their figures over the EMA length, the files, and how long each part took."""

    constant: TrainedRun
    """Its learning rate never falls."""
    recipe: TrainedRun
    """The preset."""
    analysis: Analysis
    between: AnalysisRow
    """The best row of the run that scored worse; its difference is that to the best of all."""
    search: SearchResult
    """The optimum of the best run."""
    weights_file: Path
    report: Path
    seconds: dict[str, float]

    @property
    def best(self) -> AnalysisRow:
        return next(row for row in self.analysis.rows if row.best)

    @property
    def document(self) -> dict[str, Any]:
        """The results as JSON."""
        return {
            "runs": {
                name: {"id": one.run.id, "name": one.run.name, "best": _short(one.best)}
                for name, one in (("constant", self.constant), ("recipe", self.recipe))
            },
            "best": {"run": self.best.run, **_short(self.best)},
            "difference_between_runs": {
                "value": self.between.difference,
                "standard_error": self.between.difference_error,
            },
            "search": self.search.to_json(),
            "figure": self.analysis.figure,
            "recipe": self.analysis.recipe,
            "rows": [row.to_json() for row in self.analysis.rows],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "weights": str(self.weights_file),
            "report": str(self.report),
        }


def _short(row: AnalysisRow) -> dict[str, Any]:
    return {"sigma_rel": row.sigma_rel, "value": row.value, "standard_error": row.standard_error}
