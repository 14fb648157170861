"""Reconstructions: one row per wanted profile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.catalog.columns import new_id
from shared.catalog.content import content_key as key_of
from shared.catalog.errors import NotFound
from shared.catalog.models import Reconstruction
from shared.catalog.pages import Page
from shared.catalog.repository import Repository
from shared.catalog.runs import RunRepository


class ReconstructionRepository(Repository):
    def __init__(self, session: Session, runs: RunRepository) -> None:
        super().__init__(session)
        self._runs = runs

    def find_or_create(
        self,
        *,
        run_id: str,
        num_images: int,
        sigma_rel: float,
        gamma: float,
        dtype: str,
        plan: dict[str, Any],
        content_key: str | None = None,
    ) -> tuple[Reconstruction, bool]:
        """The row that answers this question, and whether it needs a job: it is new, or its last one gave nothing.

        The run stays locked until the transaction ends, so that of two askers only one enqueues: enqueue and `assign`
        in the same transaction. The key defaults to run, time, profile, dtype and the contents of the snapshots used.
        """
        self._runs.lock(run_id)
        if content_key is None:
            content_key = key_of(
                "reconstruction",
                {
                    "run_id": run_id,
                    "num_images": num_images,
                    "sigma_rel": sigma_rel,
                    "dtype": dtype,
                    "snapshots": [snapshot["sha256"] for snapshot in plan["snapshots"]],
                },
            )
        values = {
            "id": new_id("rec"),
            "run_id": run_id,
            "num_images": num_images,
            "sigma_rel": sigma_rel,
            "gamma": gamma,
            "dtype": dtype,
            "content_key": content_key,
            "plan": plan,
        }
        self._add(Reconstruction, values, ["content_key"])
        row = self._all(select(Reconstruction).where(Reconstruction.content_key == content_key))[0]
        return row, row.needs_job

    def assign(self, ids: Iterable[str], job_id: str) -> None:
        """Let a job compute these rows."""
        self._session.execute(
            update(Reconstruction)
            .where(Reconstruction.id.in_(list(ids)), Reconstruction.key.is_(None))
            .values(job_id=job_id)
            .execution_options(synchronize_session=False)
        )

    def complete(self, reconstruction_id: str, key: str, size: int, sha256: str) -> Reconstruction:
        """Register the finished weights; a row that has some keeps them."""
        self._session.execute(
            update(Reconstruction)
            .where(Reconstruction.id == reconstruction_id, Reconstruction.key.is_(None))
            .values(key=key, size=size, sha256=sha256)
            .execution_options(synchronize_session=False)
        )
        return self.get(reconstruction_id)

    def get(self, reconstruction_id: str) -> Reconstruction:
        """`NotFound` when there is no such reconstruction."""
        row = self._first(select(Reconstruction).where(Reconstruction.id == reconstruction_id))
        if row is None:
            raise NotFound("reconstruction", reconstruction_id)
        return row

    def by_ids(self, ids: Iterable[str]) -> list[Reconstruction]:
        """The rows in the order of `ids`; `NotFound` names the first that is missing."""
        wanted = list(ids)
        rows = {row.id: row for row in self._all(select(Reconstruction).where(Reconstruction.id.in_(wanted)))}
        for missing in (one for one in wanted if one not in rows):
            raise NotFound("reconstruction", missing)
        return [rows[one] for one in wanted]

    def page(self, run_id: str | None = None, *, after: str | None = None, limit: int = 50) -> Page[Reconstruction]:
        """Newest first, of one run or of all."""
        query = select(Reconstruction)
        if run_id is not None:
            query = query.where(Reconstruction.run_id == run_id)
        return self._newest_first(query, Reconstruction.seq, after, limit)
