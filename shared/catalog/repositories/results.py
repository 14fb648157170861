"""Base class for rows that state a request, to which a job adds the result once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.base import ExecutableOption

from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.errors import NotFound
from phema.shared.catalog.models import (
    LIVE_STATES,
    Basis,
    Evaluation,
    Job,
    Preview,
    Reconstruction,
    Sample,
    SamplePart,
)
from phema.shared.catalog.pagination import Page
from phema.shared.catalog.repositories.repository import Repository
from phema.shared.catalog.repositories.runs import RunRepository

R = TypeVar("R", Reconstruction, Basis, Evaluation, Sample, Preview, SamplePart)


class ResultRepository(Repository, Generic[R]):
    """Rows with a unique content key, a job, and columns that are set once, when the result exists."""

    _model: type[R]
    _what: ClassVar[str]
    _prefix: ClassVar[str]
    _page_options: ClassVar[tuple[ExecutableOption, ...]] = ()
    """What a page need not load."""

    def __init__(self, session: Session, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs

    def assign(self, ids: Iterable[str], job_id: str) -> None:
        """Assign a job to those of the rows that have no result."""
        model = self._model
        self._session.execute(
            update(model)
            .where(model.id.in_(list(ids)), self._unfinished())
            .values(job_id=job_id)
            .execution_options(synchronize_session=False)
        )

    def get(self, result_id: str) -> R:
        """Raises `NotFound`."""
        return self._one(select(self._model).where(self._model.id == result_id), self._what, result_id)

    def by_ids(self, ids: Iterable[str]) -> list[R]:
        """The rows in the order of `ids`. Raises `NotFound` for the first missing id."""
        wanted = list(ids)
        rows = {row.id: row for row in self._all(select(self._model).where(self._model.id.in_(wanted)))}
        missing = next((one for one in wanted if one not in rows), None)
        if missing is not None:
            raise NotFound(self._what, missing)
        return [rows[one] for one in wanted]

    def page(self, run_id: str | None = None, *, after: str | None = None, limit: int = 50) -> Page[R]:
        """A page of rows of one run or of all runs, newest first."""
        query = select(self._model).options(*self._page_options)
        if run_id is not None:
            query = query.where(self._model.run_id == run_id)
        return self._newest_first(query, self._model.seq, after, limit)

    def under_way(self, run_id: str) -> list[R]:
        """Rows of a run without a result that have a queued or running job."""
        model = self._model
        jobs = select(Job.id).where(Job.run_id == run_id, Job.state.in_(LIVE_STATES))
        return self._all(select(model).where(model.run_id == run_id, self._unfinished(), model.job_id.in_(jobs)))

    def _find_or_create(self, run_id: str, content_key: str, values: dict[str, Any]) -> tuple[R, bool]:
        # One request per run at a time: the next request sees the job that this one enqueues and assigns.
        self._runs.lock(run_id)
        values = {"id": new_id(self._prefix), "run_id": run_id, "content_key": content_key, **values}
        self._add(self._model, values, ["content_key"])
        row = self._all(select(self._model).where(self._model.content_key == content_key))[0]
        return row, row.needs_job

    def _complete(self, result_id: str, values: dict[str, Any]) -> R:
        model = self._model
        self._session.execute(
            update(model)
            .where(model.id == result_id, self._unfinished())
            .values(**values)
            .execution_options(synchronize_session=False)
        )
        return self.get(result_id)

    def _unfinished(self) -> ColumnElement[bool]:
        column: InstrumentedAttribute[Any] = getattr(self._model, self._model.result_column)
        return column.is_(None)
