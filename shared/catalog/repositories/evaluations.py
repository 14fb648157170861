"""Rows of `/v1/evaluations`: figures and pictures of reconstructions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import defer, joinedload, raiseload

from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.models import Evaluation, Reconstruction
from phema.shared.catalog.repositories.results import ResultRepository


class EvaluationRepository(ResultRepository[Evaluation]):
    _model = Evaluation
    _what = "evaluation"
    _prefix = "eval"
    _page_options = (
        # Plans of many snapshots are long.
        joinedload(Evaluation.reconstruction).options(
            defer(Reconstruction.plan, raiseload=True), raiseload(Reconstruction.job)
        ),
    )

    def find_or_create(
        self, *, run_id: str, reconstruction_id: str, recipe: dict[str, Any], content_key: str | None = None
    ) -> tuple[Evaluation, bool]:
        """(the row with this content key, whether it needs a job). It needs one if it has no result and no live job.

        Locks the run until the transaction ends: enqueue the job and call `assign` in the same transaction.
        `content_key` defaults to a hash of the reconstruction's id and the recipe.
        """
        if content_key is None:
            content_key = key_of("evaluation", {"reconstruction_id": reconstruction_id, "recipe": recipe})
        return self._find_or_create(run_id, content_key, {"reconstruction_id": reconstruction_id, "recipe": recipe})

    def complete(
        self,
        evaluation_id: str,
        figures: dict[str, float],
        pictures_key: str | None = None,
        *,
        errors: dict[str, float] | None = None,
        replicates: dict[str, list[float]] | None = None,
        provenance: dict[str, Any] | None = None,
        archive: dict[str, Any] | None = None,
    ) -> Evaluation:
        """Register the finished figures. A row that already has figures keeps them. Columns: see `Evaluation`."""
        values = {"errors": errors, "replicates": replicates, "provenance": provenance, "archive": archive}
        return self._complete(evaluation_id, {"figures": figures, "pictures_key": pictures_key, **values})

    def replicates(self, evaluation_ids: Iterable[str], figure: str | None = None) -> dict[str, dict[str, list[float]]]:
        """By evaluation and figure: its values without one block of pictures each.

        With `figure`, only those of this figure are read: an evaluation may have long ones of many figures.
        """
        ids = list(evaluation_ids)
        if figure is None:
            query = select(Evaluation.id, Evaluation.replicates).where(Evaluation.id.in_(ids))
            return {row[0]: row[1] or {} for row in self._session.execute(query)}
        one = select(Evaluation.id, Evaluation.replicates[figure]).where(Evaluation.id.in_(ids))
        return {row[0]: {} if row[1] is None else {figure: row[1]} for row in self._session.execute(one)}

    def finished(self, run_id: str, limit: int) -> list[Evaluation]:
        """The newest evaluations of a run that have figures, newest first, without their jobs and provenance."""
        query = select(Evaluation).where(Evaluation.run_id == run_id, Evaluation.figures.is_not(None))
        lean = (*self._page_options, raiseload(Evaluation.job), defer(Evaluation.provenance, raiseload=True))
        return self._all(query.options(*lean).order_by(Evaluation.seq.desc()).limit(limit))

    def finished_of(self, reconstruction_id: str) -> list[Evaluation]:
        """Evaluations of a reconstruction that have figures, oldest first."""
        query = select(Evaluation).where(
            Evaluation.reconstruction_id == reconstruction_id, Evaluation.figures.is_not(None)
        )
        return self._all(query.options(*self._page_options).order_by(Evaluation.seq))
