"""The curve of a run's continuous evaluation, read from its points."""

from __future__ import annotations

import math

from phema.services.api.jobs.service import to_job
from phema.services.api.runs.schemas import CurvePoint, ProgressCurve
from phema.shared.catalog import StudyKind, Transaction
from phema.shared.studies import progress_curve as curves


def progress_curve(tx: Transaction, run: str) -> ProgressCurve:
    """Raises catalog.NotFound."""
    row = tx.runs.get(run)
    studies = tx.studies.page(StudyKind.FOLLOW, row.id, limit=1).items
    if not studies:
        return ProgressCurve(run_id=row.id, state=None, points=[], failures=[], stopped=None, job=None)
    study = studies[0]
    points = tx.studies.points(study.id)
    return ProgressCurve(
        run_id=row.id,
        state=study.state,
        points=[_point(point) for point in curves.progress_curve(points)],
        failures=[point.error for point in points if point.error is not None],
        stopped=(study.progress or {}).get("stopped"),
        job=to_job(study.job) if study.job else None,
    )


def _point(point: curves.CurvePoint) -> CurvePoint:
    value = point.value.value
    return CurvePoint(
        num_images=point.num_images,
        sigma_rel=point.sigma_rel,
        figure=point.figure,
        value=value if math.isfinite(value) else None,
        standard_error=point.value.standard_error,
        evaluation_id=point.evaluation_id,
        edge=bool(point.edges),
    )
