"""Rows of `/v1/previews`: pictures of averages whose weights are not stored."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, or_, select, update

from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.content_keys import profile_identity
from phema.shared.catalog.models import LIVE_STATES, Job, Preview
from phema.shared.catalog.repositories.repository import Rows
from phema.shared.catalog.repositories.results import ResultRepository


class PreviewRepository(ResultRepository[Preview]):
    _model = Preview
    _what = "preview"
    _prefix = "prv"

    def find_or_create(
        self,
        *,
        run_id: str,
        num_images: int,
        profile: dict[str, Any],
        solve: dict[str, Any],
        request: dict[str, Any],
        plan: dict[str, Any],
    ) -> tuple[Preview, bool]:
        """(the row of this request, whether it needs a job). It needs one if it has no result and no live job.

        `solve`: what the request says about the plan. A row that needs a job gets this `plan`: the snapshots of an
        earlier one may be gone. Locks the run until the transaction ends: enqueue the job and call `assign` in the same
        transaction.
        """
        question = {"run_id": run_id, "num_images": num_images, "profile": profile_identity(profile)}
        values = {"num_images": num_images, "profile": profile, "request": request, "plan": plan}
        row, needs_job = self._find_or_create(
            run_id, key_of("preview", {**question, "solve": solve, "request": request}), values
        )
        if needs_job:
            statement = update(Preview).where(Preview.id == row.id).values(plan=plan)
            self._session.execute(statement.execution_options(synchronize_session=False))
        return row, needs_job

    def complete(self, preview_id: str, result: dict[str, Any]) -> Preview:
        """Register the stored picture. A row that already has one keeps it."""
        return self._complete(preview_id, {"result": result})

    def latest_results(self, run_id: str | None, limit: int | None = None) -> Rows[dict[str, Any]]:
        """The results of the newest finished previews of a run, or of all runs."""
        query = select(Preview.result).where(Preview.result.is_not(None)).order_by(Preview.seq.desc()).limit(limit)
        if run_id is not None:
            query = query.where(Preview.run_id == run_id)
        return [result for result in self._session.scalars(query) if result is not None]

    def prune(self, run_id: str, keep: int) -> Rows[str]:
        """Remove all but the `keep` newest previews of a run, except those that a queued or running job makes.

        Returns the keys of their objects: list them for deletion in the same transaction. Call with the run locked.
        """
        newest = select(Preview.seq).where(Preview.run_id == run_id).order_by(Preview.seq.desc())
        oldest_kept = self._session.scalars(newest.offset(keep - 1).limit(1)).first()
        if oldest_kept is None:
            return []
        live = select(Job.id).where(Job.state.in_(LIVE_STATES))
        removed = (
            delete(Preview)
            .where(
                Preview.run_id == run_id,
                Preview.seq < oldest_kept,
                or_(Preview.job_id.is_(None), Preview.job_id.not_in(live)),
            )
            .returning(Preview.result)
        )
        found = self._session.scalars(removed.execution_options(synchronize_session=False)).all()
        return [result["key"] for result in found if result is not None]
