"""Searches as answers. `shared.submissions.searches` checks and submits them."""

from __future__ import annotations

from typing import Any

from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.services.api.runs.service import finite
from phema.services.api.searches import schemas
from phema.shared import catalog
from phema.shared.catalog import JobState, StudyKind, Transaction
from phema.shared.studies.point import StudyPointSpec
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.submissions import searches
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.searches import PreparedSearch


def create(tx: Transaction, prepared: PreparedSearch, *, max_attempts: int) -> EndpointResult:
    """The search, and a job if it needs one."""
    row = searches.submit(tx, prepared, JobOptions(max_attempts))
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, schemas.Search(**_fields(row)))


def detail(tx: Transaction, search_id: str) -> schemas.SearchDetail:
    """The search with its points so far. Raises catalog.NotFound."""
    row = tx.studies.get(search_id, StudyKind.SEARCH)
    spec = SearchSpec.model_validate(row.spec)
    points = [_to_point(spec, point) for point in tx.studies.points(row.id)]
    return schemas.SearchDetail(**_fields(row), points=points)


def page(tx: Transaction, *, run: str | None, cursor: str | None, limit: int) -> Page[schemas.Search]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.studies.page(StudyKind.SEARCH, run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[schemas.Search(**_fields(row)) for row in found.items], next_cursor=found.next_cursor)


def _fields(row: catalog.Study) -> dict[str, Any]:
    assert row.job is not None
    return {
        "id": row.id,
        "run_id": row.run_id,
        "state": row.state,
        "spec": SearchSpec.model_validate(row.spec),
        "purpose": (row.progress or {}).get("purpose"),
        "result": schemas.result_of(row.result),
        "job": to_job(row.job),
        "error": row.job.error,
        "created_at": row.created_at,
    }


def _to_point(spec: SearchSpec, row: catalog.StudyPoint) -> schemas.SearchPoint:
    point = StudyPointSpec.model_validate(row.point)
    evaluation = row.evaluation
    figures = evaluation.figures if evaluation is not None else None
    names = [axis.name for axis in spec.space.axes]
    return schemas.SearchPoint(
        number=row.number,
        step=row.stage,
        state=_state(row),
        point=dict(zip(names, spec.position(point), strict=True)),
        num_samples=point.recipe["num_samples"],
        seed=point.recipe["seed"],
        reconstruction_id=row.reconstruction_id,
        evaluation_id=row.evaluation_id,
        figures=finite(figures) if figures is not None else None,
        errors=finite(evaluation.errors) if evaluation is not None and evaluation.errors is not None else None,
        error=row.error if figures is None else None,
    )


def _state(row: catalog.StudyPoint) -> JobState:
    if row.evaluation is not None and row.evaluation.figures is not None:
        return JobState.SUCCEEDED
    if row.error is not None:
        return JobState.FAILED
    return row.evaluation.state if row.evaluation is not None else JobState.QUEUED
