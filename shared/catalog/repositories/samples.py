"""Rows of `/v1/samples`: pictures drawn without scoring them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.models import Sample
from phema.shared.catalog.repositories.results import ResultRepository


class SampleRepository(ResultRepository[Sample]):
    _model = Sample
    _what = "sample"
    _prefix = "smp"

    def find_or_create(self, *, run_id: str, reconstruction_id: str, request: dict[str, Any]) -> tuple[Sample, bool]:
        """(the row of this request, whether it needs a job). It needs one if it has no result and no live job.

        Locks the run until the transaction ends: enqueue the job and call `assign` in the same transaction.
        """
        values = {"reconstruction_id": reconstruction_id, "request": request}
        return self._find_or_create(run_id, key_of("sample", values), values)

    def stored(self, run_id: str) -> list[dict[str, Any]]:
        """`{key, size, sha256}` of every stored file of a run."""
        query = select(Sample.result).where(Sample.run_id == run_id, self._unfinished().is_(False))
        return [result for result in self._session.scalars(query) if result is not None]

    def complete(self, sample_id: str, result: dict[str, Any]) -> Sample:
        """Register the stored file. A row that already has one keeps it."""
        return self._complete(sample_id, {"result": result})
