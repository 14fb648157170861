"""Sweeps as answers. `shared.submissions.sweeps` checks and submits them."""

from __future__ import annotations

from typing import Any

from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.services.api.runs.service import finite
from phema.services.api.sweeps import schemas
from phema.shared import catalog
from phema.shared.catalog import JobState, StudyKind, Transaction
from phema.shared.studies.outcome import Outcome, figure_of, study_outcome
from phema.shared.studies.point import StudyPointSpec, WeightsSpec
from phema.shared.studies.sweep_spec import StoredSweep, extended
from phema.shared.submissions import sweeps
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.sweeps import PreparedSweep


def create(tx: Transaction, prepared: PreparedSweep, *, max_attempts: int) -> EndpointResult:
    """The sweep, and a job if it needs one."""
    row = sweeps.submit(tx, prepared, JobOptions(max_attempts))
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, to_sweep(row))


def prepare_extension(tx: Transaction, sweep_id: str, body: schemas.SweepExtend) -> PreparedSweep:
    """Raises catalog.NotFound, SubmissionError."""
    row = tx.studies.get(sweep_id, StudyKind.SWEEP)
    stored = StoredSweep.model_validate(row.spec)
    more = body.more
    if not more:
        raise InvalidFields.of(
            "", "the extension is empty; give further values of an axis, such as sigma_rel, or a larger num_samples"
        )
    if body.num_samples is not None and body.num_samples < stored.num_samples:
        raise InvalidFields.of(
            "num_samples",
            f"num_samples {body.num_samples} must be at least {stored.num_samples}, which the sweep has already",
        )
    if guide := more.pop("guide", None):
        if stored.guide is None:
            raise InvalidFields.of("guide", f"guide has no effect: sweep {row.id} has no guide; start another sweep")
        more["guide"] = extended(stored.guide, guide)
    return sweeps.prepare(tx, row.run_id, extended(stored.spec, more), extends=row.id)


def to_sweep(row: catalog.Study) -> schemas.Sweep:
    return schemas.Sweep(**_fields(row))


def _fields(row: catalog.Study) -> dict[str, Any]:
    assert row.job is not None
    stored = StoredSweep.model_validate(row.spec)
    return {
        "id": row.id,
        "run_id": row.run_id,
        "state": row.state,
        "spec": stored.spec,
        "extends": stored.extends,
        "num_points": stored.num_points,
        "result": row.result,
        "job": to_job(row.job),
        "error": row.job.error,
        "created_at": row.created_at,
    }


def detail(tx: Transaction, sweep_id: str) -> schemas.SweepDetail:
    """The sweep with what its points say so far. Raises catalog.NotFound."""
    row = tx.studies.get(sweep_id, StudyKind.SWEEP)
    points = tx.studies.points(row.id)
    figure = figure_of(points)
    ids = [point.evaluation_id for point in points if point.evaluation_id]
    replicates = {} if figure is None else tx.evaluations.replicates(ids, figure.name)
    outcome = study_outcome(points, replicates)
    ranking = outcome.ranking
    return schemas.SweepDetail(
        **_fields(row),
        figure=outcome.figure.name if outcome.figure else None,
        best=ranking.best.number if ranking else None,
        answer=outcome.sentence if ranking else None,
        points=[to_point(point, outcome) for point in points],
    )


def page(tx: Transaction, *, run: str | None, cursor: str | None, limit: int) -> Page[schemas.Sweep]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.studies.page(StudyKind.SWEEP, run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_sweep(row) for row in found.items], next_cursor=found.next_cursor)


def to_point(row: catalog.StudyPoint, outcome: Outcome) -> schemas.StudyPoint:
    spec = outcome.specs.get(row.number) or StudyPointSpec.model_validate(row.point)
    evaluation = row.evaluation
    figures = evaluation.figures if evaluation is not None else None
    compared = outcome.ranking.comparisons.get(row.number) if outcome.ranking else None
    return schemas.StudyPoint(
        number=row.number,
        state=_state(row),
        weights=_weights(spec.weights),
        guide=_weights(spec.guide) if spec.guide else None,
        recipe=spec.recipe,
        reconstruction_id=row.reconstruction_id,
        evaluation_id=row.evaluation_id,
        figures=finite(figures) if figures is not None else None,
        errors=finite(evaluation.errors) if evaluation is not None and evaluation.errors is not None else None,
        difference=compared.difference if compared else None,
        difference_error=compared.standard_error if compared else None,
        distinct=compared.decided if compared else None,
        error=row.error if figures is None else None,
    )


def _state(row: catalog.StudyPoint) -> JobState:
    if row.evaluation is not None and row.evaluation.figures is not None:
        return JobState.SUCCEEDED
    if row.error is not None:
        return JobState.FAILED
    return row.evaluation.state if row.evaluation is not None else JobState.QUEUED


def _weights(weights: WeightsSpec) -> schemas.PointWeights:
    return schemas.PointWeights(
        run_id=weights.run_id,
        num_images=weights.num_images,
        profile=weights.profile.model_dump(mode="json"),
        label=weights.profile.label,
        sigma_rel=weights.profile.sigma_rel,
    )
