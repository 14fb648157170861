"""Reads finished evaluations from the catalog as the points of analyses and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from phema.services.api.http.problems import Invalid
from phema.shared import catalog
from phema.shared.analyses.evaluated_points import EvaluatedPoint, GuideWeights
from phema.shared.catalog import Transaction
from phema.shared.metrics.figures import FigureValue
from phema.shared.snapshots.profile import Profile

MOST_EVALUATIONS = 5_000
"""Newest evaluations of each run that are read. A sweep of a thousand points fits several times."""
MOST_OF_ALL_RUNS = 10_000
"""Evaluations that are read of all runs together; each run has an equal share."""


def runs_of(tx: Transaction, names: Sequence[str]) -> list[catalog.Run]:
    """The runs with these ids or names, each once, in order. Raises Invalid."""
    found: dict[str, catalog.Run] = {}
    for name in names:
        try:
            row = tx.runs.get(name)
        except catalog.NotFound as error:
            raise Invalid.of("run", f"run {name!r} is neither the id nor the name of a run", place="query") from error
        found.setdefault(row.id, row)
    return list(found.values())


def finished_evaluations(tx: Transaction, runs: Sequence[catalog.Run]) -> list[EvaluatedPoint]:
    """Finished evaluations of the runs, newest first within each run. `with_replicates` adds replicates."""
    most = min(MOST_EVALUATIONS, MOST_OF_ALL_RUNS // max(len(runs), 1))
    rows = [row for run in runs for row in tx.evaluations.finished(run.id, most)]
    guides = _guides(tx, {str(row.recipe["guide_id"]) for row in rows if row.recipe.get("guide_id")})
    names = {run.id: run.name for run in runs}
    return [_point(row, names[row.run_id], guides) for row in rows]


def with_replicates(
    tx: Transaction, points: Sequence[EvaluatedPoint], figures: Iterable[str]
) -> tuple[EvaluatedPoint, ...]:
    """The points with replicates of these figures: few points of a run are compared, and replicates are long."""
    ids = [point.evaluation_id for point in points]
    found = {figure: tx.evaluations.replicates(ids, figure) for figure in figures}
    return tuple(
        replace(
            point,
            figures={
                name: replace(value, replicates=tuple(found.get(name, {}).get(point.evaluation_id, {}).get(name, ())))
                for name, value in point.figures.items()
            },
        )
        for point in points
    )


def _guides(tx: Transaction, ids: set[str]) -> dict[str, GuideWeights]:
    rows = tx.reconstructions.without_plans(ids)
    names = {run_id: tx.runs.get(run_id).name for run_id in {row.run_id for row in rows}}
    return {
        row.id: GuideWeights(names[row.run_id], row.num_images, Profile.model_validate(row.profile)) for row in rows
    }


def _point(row: catalog.Evaluation, run: str, guides: Mapping[str, GuideWeights]) -> EvaluatedPoint:
    errors = row.errors or {}
    return EvaluatedPoint(
        evaluation_id=row.id,
        reconstruction_id=row.reconstruction_id,
        run=run,
        num_images=row.reconstruction.num_images,
        profile=Profile.model_validate(row.reconstruction.profile),
        recipe=row.recipe,
        figures={name: FigureValue(value, errors.get(name)) for name, value in (row.figures or {}).items()},
        guide=guides.get(str(row.recipe.get("guide_id"))),
        pictures_key=row.pictures_key,
    )
