"""Rows of `/v1/sweeps` and `/v1/searches`, and of continuous evaluations: many evaluations of one run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import defer, joinedload, raiseload

from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.models import Evaluation, Job, Study, StudyKind, StudyPoint
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.repository import FRESH, Repository, Rows
from phema.shared.catalog.repositories.runs import RunRepository


class StudyRepository(Repository):
    """A study's coordinator adds points one after another, and reads their evaluations through them."""

    def __init__(self, session: Any, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs

    def find_or_create(
        self, kind: StudyKind, *, run_id: str, spec: dict[str, Any], content_key: str
    ) -> tuple[Study, bool]:
        """(the study with this content key, whether it needs a job). Locks the run until the transaction ends."""
        self._runs.lock(run_id)
        values = {"id": new_id(kind.value), "kind": kind, "run_id": run_id, "spec": spec, "content_key": content_key}
        self._add(Study, values, ["content_key"])
        row = self._all(select(Study).where(Study.content_key == content_key))[0]
        return row, row.job is None or (row.job.state.terminal and row.result is None)

    def assign(self, study_id: str, job: Job) -> Study:
        """Make `job` the study's job."""
        return self._change(study_id, job_id=job.id)

    def get(self, study_id: str, kind: StudyKind | None = None) -> Study:
        """Raises `NotFound`."""
        query = select(Study).where(Study.id == study_id)
        if kind is not None:
            query = query.where(Study.kind == kind)
        return self._one(query, kind.value if kind else "study", study_id)

    def page(
        self, kind: StudyKind, run_id: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> Page[Study]:
        """A page of studies of one run or of all runs, newest first."""
        query = select(Study).where(Study.kind == kind)
        if run_id is not None:
            query = query.where(Study.run_id == run_id)
        return self._newest_first(query, Study.seq, after, limit)

    def extend(self, study_id: str, spec: dict[str, Any]) -> Study:
        """Replace the request by a larger one; the study then needs a new job unless one is under way."""
        return self._change(study_id, spec=spec, result=None)

    def set_progress(self, study_id: str, progress: dict[str, Any]) -> Study:
        return self._change(study_id, progress=progress)

    def complete(self, study_id: str, result: dict[str, Any]) -> Study:
        return self._change(study_id, result=result)

    def add_point(self, study_id: str, number: int, point: dict[str, Any], *, stage: int = 0) -> StudyPoint:
        """The point with this number; an existing one is returned unchanged."""
        values = {"study_id": study_id, "number": number, "stage": stage, "point": point}
        self._add(StudyPoint, values, ["study_id", "number"])
        query = select(StudyPoint).where(StudyPoint.study_id == study_id, StudyPoint.number == number)
        return self._all(query)[0]

    def set_point(self, study_id: str, number: int, **values: Any) -> None:
        """Set `reconstruction_id`, `guide_reconstruction_id`, `evaluation_id`, `error` or `point`."""
        statement = update(StudyPoint).where(StudyPoint.study_id == study_id, StudyPoint.number == number)
        self._session.execute(statement.values(**values).execution_options(synchronize_session=False))

    def points(self, study_id: str, *, after: int | None = None, limit: int | None = None) -> Rows[StudyPoint]:
        """Points in order of their numbers, with their evaluations and the jobs of these, without reconstructions."""
        # Plans of many snapshots are long, and a study may have thousands of points.
        lean = joinedload(StudyPoint.evaluation).options(
            raiseload(Evaluation.reconstruction), defer(Evaluation.provenance, raiseload=True)
        )
        query = select(StudyPoint).where(StudyPoint.study_id == study_id).options(lean).order_by(StudyPoint.number)
        if after is not None:
            query = query.where(StudyPoint.number > after)
        return self._all(query if limit is None else query.limit(limit))

    def num_points(self, study_id: str) -> int:
        """How many points the coordinator has reached."""
        query = select(func.count()).select_from(StudyPoint).where(StudyPoint.study_id == study_id)
        return self._session.scalar(query) or 0

    def _change(self, study_id: str, **values: Any) -> Study:
        statement = update(Study).where(Study.id == study_id).values(**values)
        self._session.execute(statement.execution_options(synchronize_session=False))
        return self._session.scalars(select(Study).where(Study.id == study_id), execution_options=FRESH).unique().one()
