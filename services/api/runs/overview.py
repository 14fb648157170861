"""What a list of runs shows beside their rows: the curve of the loss, speed, remaining time, best figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from phema.services.api.runs.schemas import Run
from phema.shared.catalog import RunState, Transaction
from phema.shared.catalog.repositories.run_overviews import BestEvaluation, Curve
from phema.shared.metrics.metric import Figure
from phema.shared.metrics.registry import ranking_figure
from phema.shared.snapshots.profile import Profile

CURVE_POINTS = 32


@dataclass(frozen=True)
class BestFigure:
    """The best value of the figure by which a run's evaluations are ranked."""

    figure: Figure
    evaluation: BestEvaluation

    @property
    def label(self) -> str:
        """The profile, in few characters."""
        return Profile.model_validate(self.evaluation.profile).label

    @property
    def guidance(self) -> float:
        """The guidance weight; stored recipes may lack fields that have their default."""
        return float(self.evaluation.recipe.get("guidance", 1.0))


@dataclass(frozen=True)
class RunOverview:
    """None is unknown."""

    loss: Curve
    images_per_second: float | None
    """While the run trains."""
    remaining_seconds: float | None
    best: BestFigure | None


def overviews(tx: Transaction, runs: Sequence[Run]) -> dict[str, RunOverview]:
    """By id of the run, with a few queries for all of them."""
    ids = [run.id for run in runs]
    curves = tx.run_overviews.curves(ids, "loss", CURVE_POINTS)
    training = [run.id for run in runs if run.state is RunState.RUNNING]
    speeds = tx.run_overviews.latest(training, "images_per_second") if training else {}
    best = best_figures(tx, ids)
    return {
        run.id: RunOverview(
            loss=curves.get(run.id, []),
            images_per_second=speeds.get(run.id),
            remaining_seconds=_remaining(run, speeds.get(run.id)),
            best=best.get(run.id),
        )
        for run in runs
    }


def best_figures(tx: Transaction, run_ids: Sequence[str]) -> dict[str, BestFigure]:
    """By id of the run; runs without evaluations are missing."""
    of_figure: dict[str, list[str]] = defaultdict(list)
    figures: dict[str, Figure] = {}
    for run_id, names in tx.run_overviews.figures(run_ids).items():
        if (figure := ranking_figure(names)) is not None:
            figures[figure.name] = figure
            of_figure[figure.name].append(run_id)
    return {
        run_id: BestFigure(figures[name], evaluation)
        for name, ids in of_figure.items()
        for run_id, evaluation in tx.run_overviews.best(ids, name, figures[name].better).items()
    }


def _remaining(run: Run, speed: float | None) -> float | None:
    return (run.total_images - run.num_images) / speed if speed else None
