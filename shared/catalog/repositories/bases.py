"""Rows of `/v1/bases`: a few orthonormal vectors that stand for all snapshots of a run up to one time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.content_keys import profile_identity
from phema.shared.catalog.models import Basis
from phema.shared.catalog.repositories.results import ResultRepository


class BasisRepository(ResultRepository[Basis]):
    _model = Basis
    _what = "basis"
    _prefix = "basis"

    def find_or_create(
        self,
        *,
        run_id: str,
        num_images: int,
        sigma_rel_min: float,
        sigma_rel_max: float,
        tolerance: float,
        plan: dict[str, Any],
        content_key: str | None = None,
    ) -> tuple[Basis, bool]:
        """(the row with this content key, whether it needs a job). It needs one if it has no result and no live job.

        Locks the run until the transaction ends: enqueue the job and call `assign` in the same transaction.
        `content_key` defaults to a hash of run, time, range of sigma_rel, tolerance, other profiles and the snapshots'
        hashes.
        """
        question = {
            "num_images": num_images,
            "sigma_rel_min": sigma_rel_min,
            "sigma_rel_max": sigma_rel_max,
            "tolerance": tolerance,
        }
        if content_key is None:
            snapshots = [snapshot["sha256"] for snapshot in plan["snapshots"]]
            others = {"profiles": profile_identity(plan["profiles"])} if plan.get("profiles") else {}
            content_key = key_of("basis", {"run_id": run_id, **question, **others, "snapshots": snapshots})
        return self._find_or_create(run_id, content_key, {**question, "plan": plan})

    def finished(self, run_id: str) -> list[Basis]:
        """Bases of a run whose vectors are in the store, oldest first."""
        return self._all(select(Basis).where(Basis.run_id == run_id, Basis.vectors.is_not(None)).order_by(Basis.seq))

    def times(self, run_id: str) -> set[int]:
        """Every `num_images` at which the run has a finished basis."""
        query = select(Basis.num_images).where(Basis.run_id == run_id, Basis.vectors.is_not(None))
        return set(self._session.scalars(query))

    def complete(self, basis_id: str, vectors: list[dict[str, Any]]) -> Basis:
        """Register the finished vectors, one `{key, size, sha256}` each. A row that already has vectors keeps them."""
        return self._complete(basis_id, {"vectors": vectors})
