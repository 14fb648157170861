"""Evaluations: figures and pictures of reconstructions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.catalog.columns import new_id
from shared.catalog.content import content_key as key_of
from shared.catalog.errors import NotFound
from shared.catalog.models import Evaluation
from shared.catalog.pages import Page
from shared.catalog.repository import Repository
from shared.catalog.runs import RunRepository


class EvaluationRepository(Repository):
    def __init__(self, session: Session, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs

    def find_or_create(
        self, *, run_id: str, reconstruction_id: str, recipe: dict[str, Any], content_key: str | None = None
    ) -> tuple[Evaluation, bool]:
        """The row that answers this question, and whether it needs a job: it is new, or its last one gave nothing.

        The run stays locked until the transaction ends: enqueue and `assign` in the same transaction.
        """
        self._runs.lock(run_id)
        if content_key is None:
            content_key = key_of("evaluation", {"reconstruction_id": reconstruction_id, "recipe": recipe})
        values = {
            "id": new_id("eval"),
            "run_id": run_id,
            "reconstruction_id": reconstruction_id,
            "recipe": recipe,
            "content_key": content_key,
        }
        self._add(Evaluation, values, ["content_key"])
        row = self._all(select(Evaluation).where(Evaluation.content_key == content_key))[0]
        return row, row.needs_job

    def assign(self, ids: Iterable[str], job_id: str) -> None:
        """Let a job compute these rows."""
        self._session.execute(
            update(Evaluation)
            .where(Evaluation.id.in_(list(ids)), Evaluation.figures.is_(None))
            .values(job_id=job_id)
            .execution_options(synchronize_session=False)
        )

    def complete(self, evaluation_id: str, figures: dict[str, float], pictures_key: str | None = None) -> Evaluation:
        """Register the finished figures; a row that has some keeps them."""
        self._session.execute(
            update(Evaluation)
            .where(Evaluation.id == evaluation_id, Evaluation.figures.is_(None))
            .values(figures=figures, pictures_key=pictures_key)
            .execution_options(synchronize_session=False)
        )
        return self.get(evaluation_id)

    def get(self, evaluation_id: str) -> Evaluation:
        """`NotFound` when there is no such evaluation."""
        row = self._first(select(Evaluation).where(Evaluation.id == evaluation_id))
        if row is None:
            raise NotFound("evaluation", evaluation_id)
        return row

    def by_ids(self, ids: Iterable[str]) -> list[Evaluation]:
        """The rows in the order of `ids`; `NotFound` names the first that is missing."""
        wanted = list(ids)
        rows = {row.id: row for row in self._all(select(Evaluation).where(Evaluation.id.in_(wanted)))}
        for missing in (one for one in wanted if one not in rows):
            raise NotFound("evaluation", missing)
        return [rows[one] for one in wanted]

    def page(self, run_id: str | None = None, *, after: str | None = None, limit: int = 50) -> Page[Evaluation]:
        """Newest first, of one run or of all."""
        query = select(Evaluation)
        if run_id is not None:
            query = query.where(Evaluation.run_id == run_id)
        return self._newest_first(query, Evaluation.seq, after, limit)
