"""Reconstructions: one row per wanted profile."""

from __future__ import annotations

from typing import Any

from shared.catalog.content import content_key as key_of
from shared.catalog.models import Reconstruction
from shared.catalog.results import ResultRepository


class ReconstructionRepository(ResultRepository[Reconstruction]):
    _model = Reconstruction
    _what = "reconstruction"
    _prefix = "rec"
    _result = "key"

    def find_or_create(
        self,
        *,
        run_id: str,
        num_images: int,
        profile: dict[str, Any],
        dtype: str,
        plan: dict[str, Any],
        content_key: str | None = None,
    ) -> tuple[Reconstruction, bool]:
        """The row that answers this question, and whether it needs a job: it is new, or its last one gave nothing.

        The run stays locked until the transaction ends: enqueue and `assign` in this same transaction. The key
        defaults to run, time, profile, dtype, whether the solve is regularised and the contents of the snapshots used.
        """
        if content_key is None:
            content_key = key_of(
                "reconstruction",
                {
                    "run_id": run_id,
                    "num_images": num_images,
                    "profile": profile,
                    "dtype": dtype,
                    "regularize": plan.get("regularize", True),
                    "snapshots": [snapshot["sha256"] for snapshot in plan["snapshots"]],
                },
            )
        values = {
            "num_images": num_images,
            "profile": profile,
            "sigma_rel": profile.get("sigma_rel"),
            "dtype": dtype,
            "plan": plan,
        }
        return self._find_or_create(run_id, content_key, values)

    def complete(self, reconstruction_id: str, key: str, size: int, sha256: str) -> Reconstruction:
        """Register the finished weights; a row that has some keeps them."""
        return self._complete(reconstruction_id, {"key": key, "size": size, "sha256": sha256})
