"""Parts of evaluations: some pictures each, drawn once for every evaluation that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import aliased

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.column_types import new_id
from phema.shared.catalog.models import LIVE_STATES, Job, JobDependency, SamplePart
from phema.shared.catalog.repositories.results import ResultRepository


class SamplePartRepository(ResultRepository[SamplePart]):
    _model = SamplePart
    _what = "part"
    _prefix = "part"

    def find_or_create_all(
        self, run_id: str, drawing: str, requests: Sequence[tuple[str, dict[str, Any]]]
    ) -> list[SamplePart]:
        """The rows of (content key, request), in this order. Enqueue jobs for those that need one, and `assign`.

        Locks the run until the transaction ends.
        """
        self._runs.lock(run_id)
        for content_key, request in requests:
            values = {"id": new_id(self._prefix), "run_id": run_id, "drawing": drawing}
            self._add(SamplePart, values | {"content_key": content_key, "request": request}, ["content_key"])
        keys = [content_key for content_key, _ in requests]
        rows = {row.content_key: row for row in self._all(select(SamplePart).where(SamplePart.content_key.in_(keys)))}
        return [rows[content_key] for content_key in keys]

    def keys(self, drawing: str) -> list[str]:
        """The content key of every part of a drawing."""
        return list(self._session.scalars(select(SamplePart.content_key).where(SamplePart.drawing == drawing)))

    def any_older(self, older_than_s: float) -> bool:
        """Whether `expire` would remove a part. Only reads."""
        query = select(SamplePart.id).where(*_older(older_than_s)).limit(1)
        return self._session.scalars(query).first() is not None

    def expire(self, older_than_s: float, limit: int = 100) -> list[str]:
        """Remove parts that were drawn so long ago and that no queued or running job needs.

        Returns the keys of their objects: list them for deletion in the same transaction. An evaluation that asks for
        such a part later draws it again.
        """
        found = self._all(select(SamplePart).where(*_older(older_than_s)).order_by(SamplePart.seq).limit(limit))
        ids = [row.id for row in found]
        statement = delete(SamplePart).where(SamplePart.id.in_(ids))
        self._session.execute(statement.execution_options(synchronize_session=False))
        return [row.result["key"] for row in found if row.result is not None]

    def complete(self, part_id: str, result: dict[str, Any]) -> SamplePart:
        """Register the stored features. A row that already has a result keeps it."""
        return self._complete(part_id, {"result": result})


def _older(older_than_s: float) -> tuple[ColumnElement[bool], ...]:
    dependent = aliased(Job)
    needed = exists(
        select(JobDependency.job_id)
        .join(dependent, dependent.id == JobDependency.job_id)
        .where(JobDependency.needs_id == SamplePart.job_id, dependent.state.in_(LIVE_STATES))
    )
    return SamplePart.result.is_not(None), SamplePart.created_at < database_now() - older_than_s, ~needed
