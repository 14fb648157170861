"""Rows of `/v1/evaluations`: figures and pictures of reconstructions."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import defer, joinedload, raiseload

from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.models import Evaluation, Reconstruction
from phema.shared.catalog.repositories.results import ResultRepository


class EvaluationRepository(ResultRepository[Evaluation]):
    _model = Evaluation
    _what = "evaluation"
    _prefix = "eval"
    _result = "figures"
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

    def complete(self, evaluation_id: str, figures: dict[str, float], pictures_key: str | None = None) -> Evaluation:
        """Register the finished figures. A row that already has figures keeps them."""
        return self._complete(evaluation_id, {"figures": figures, "pictures_key": pictures_key})
