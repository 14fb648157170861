"""Rows of `/v1/reconstructions`: one per requested profile of a run at one time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, column, func, select
from sqlalchemy.orm import defer, raiseload

from phema.shared.catalog.column_types import Json
from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.content_keys import profile_identity
from phema.shared.catalog.models import Reconstruction
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.repository import FRESH
from phema.shared.catalog.repositories.results import ResultRepository

_ERROR_TOLERANCE = 1.03
"""Largest ratio of predicted errors at which a stored row still answers a request. The planner may drop snapshots that
change the error by up to 2 %, and which ones it drops depends on the other profiles of the request."""

SUMMARY_FIELDS = ("profile_error", "rounding_error", "predicted_error", "noise_gain", "regularize", "advice")
"""Fields of a plan that a list of reconstructions shows."""


@dataclass(frozen=True)
class ReconstructionSummary:
    """A row whose `plan` is not loaded, and the plan's SUMMARY_FIELDS (None for a field that the plan lacks)."""

    row: Reconstruction
    plan_fields: dict[str, Any]


class ReconstructionRepository(ResultRepository[Reconstruction]):
    _model = Reconstruction
    _what = "reconstruction"
    _prefix = "rec"

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
        """(the row with this content key, whether it needs a job). It needs one if it has no result and no live job.

        Locks the run until the transaction ends: enqueue the job and call `assign` in the same transaction.
        `content_key` defaults to a hash of everything that the weights depend on: run, time, profile, dtype, whether
        the solve is regularised, and the hashes and coefficients of the snapshots.
        """
        if content_key is None:
            content_key = key_of(
                "reconstruction",
                {
                    "run_id": run_id,
                    "num_images": num_images,
                    "profile": profile_identity(profile),
                    "dtype": dtype,
                    "regularize": plan.get("regularize", True),
                    "snapshots": [snapshot["sha256"] for snapshot in plan["snapshots"]],
                    "coefficients": plan["coefficients"],
                    "tensors": [[t["pattern"], t["coefficients"]] for t in plan.get("tensors", ())],
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

    def summaries(self, run_id: str, *, after: str | None = None, limit: int = 50) -> Page[ReconstructionSummary]:
        """The run's reconstructions, newest first, without their plans: plans of many snapshots are long."""
        query = (
            select(Reconstruction, self._summary_fields())
            .where(Reconstruction.run_id == run_id)
            .options(defer(Reconstruction.plan, raiseload=True))
            .order_by(Reconstruction.seq.desc())
        )
        if after is not None:
            query = query.where(Reconstruction.seq < decode_cursor(after, int)[0])
        found = self._session.execute(query.limit(limit + 1), execution_options=FRESH)
        summaries = [
            ReconstructionSummary(row, dict(zip(SUMMARY_FIELDS, values, strict=True))) for row, values in found
        ]
        return cut(summaries, limit, lambda summary: encode_cursor(summary.row.seq))

    def without_plans(self, ids: Iterable[str]) -> list[Reconstruction]:
        """The rows that exist of `ids`, without their plans and jobs."""
        query = select(Reconstruction).where(Reconstruction.id.in_(list(ids)))
        return self._all(query.options(defer(Reconstruction.plan, raiseload=True), raiseload(Reconstruction.job)))

    def finished(self, run_id: str, num_images: int | None, limit: int) -> list[Reconstruction]:
        """The newest finished reconstructions at `num_images`, newest first; None is the latest time that has any."""
        mine = (Reconstruction.run_id == run_id, Reconstruction.key.is_not(None))
        if num_images is None:
            num_images = self._session.scalar(select(func.max(Reconstruction.num_images)).where(*mine))
        query = select(Reconstruction).where(*mine, Reconstruction.num_images == num_images)
        return self._all(query.order_by(Reconstruction.seq.desc()).limit(limit))

    def newest_finished(self, limit: int) -> list[Reconstruction]:
        """The newest finished reconstructions of all runs, newest first, without their plans and jobs."""
        query = select(Reconstruction).where(Reconstruction.key.is_not(None)).order_by(Reconstruction.seq.desc())
        lean = (defer(Reconstruction.plan, raiseload=True), raiseload(Reconstruction.job))
        return self._all(query.options(*lean).limit(limit))

    def _summary_fields(self) -> ColumnElement[list[Any]]:
        """SQL that extracts the plan's SUMMARY_FIELDS in the database. Both dialects keep every digit of a float."""
        if self._postgresql:
            # One record: each use of `->` would parse the whole plan again.
            fields = func.json_to_record(Reconstruction.plan).table_valued(
                *(column(name, Json) for name in SUMMARY_FIELDS)
            )
            record = fields.render_derived(with_types=True)
            values = func.json_build_array(*(record.c[name] for name in SUMMARY_FIELDS), type_=Json)
            return select(values).select_from(record).correlate(Reconstruction).scalar_subquery()
        return func.json_extract(Reconstruction.plan, *(f"$.{name}" for name in SUMMARY_FIELDS), type_=Json)

    def find_equivalent(
        self,
        *,
        run_id: str,
        num_images: int,
        profile: dict[str, Any],
        dtype: str,
        regularize: bool,
        predicted_errors: Sequence[float],
    ) -> Reconstruction | None:
        """A finished or running reconstruction of the same profile, time and dtype with no larger predicted errors.

        It may be made of other inputs: snapshots that are deleted by now, or a basis. Returns None when there is none.
        Locks the run until the transaction ends, as `find_or_create` does.

        Args:
            predicted_errors: that of the profile, then that of each per-tensor pattern, in order.
        """
        self._runs.lock(run_id)
        # Plans are long, and a run may have thousands of rows: only profiles are read of those that may be equal.
        query = select(Reconstruction.id, Reconstruction.profile).where(
            Reconstruction.run_id == run_id,
            Reconstruction.num_images == num_images,
            Reconstruction.dtype == dtype,
            Reconstruction.sigma_rel.is_not_distinct_from(profile.get("sigma_rel")),
        )
        wanted = profile_identity(profile)
        equal = [row.id for row in self._session.execute(query) if profile_identity(row.profile) == wanted]
        query_equal = select(Reconstruction).where(Reconstruction.id.in_(equal)).order_by(Reconstruction.seq)
        found = [
            row
            for row in self._all(query_equal)
            if not row.needs_job
            and row.plan.get("regularize", True) == regularize
            and all(
                there <= _ERROR_TOLERANCE * here
                for there, here in zip(_errors(row.plan), predicted_errors, strict=True)
            )
        ]
        # Finished rows go before those that still need waiting.
        return min(found, key=lambda row: (row.key is None, max(_errors(row.plan))), default=None)

    def keys(self, run_id: str) -> set[str]:
        """Object keys of all finished weights of a run."""
        query = select(Reconstruction.key).where(Reconstruction.run_id == run_id, Reconstruction.key.is_not(None))
        return {str(key) for key in self._session.scalars(query)}

    def with_key(self, run_id: str, key: str) -> Reconstruction | None:
        """The finished reconstruction of a run whose weights are this object."""
        return self._first(select(Reconstruction).where(Reconstruction.run_id == run_id, Reconstruction.key == key))

    def stored(self, run_id: str) -> list[tuple[str, int, str]]:
        """(object key, size in bytes, SHA-256) of all finished weights of a run."""
        query = select(Reconstruction.key, Reconstruction.size, Reconstruction.sha256)
        query = query.where(Reconstruction.run_id == run_id, Reconstruction.key.is_not(None))
        return [(str(key), size or 0, str(sha256)) for key, size, sha256 in self._session.execute(query)]

    def complete(self, reconstruction_id: str, key: str, size: int, sha256: str) -> Reconstruction:
        """Register the finished weights. A row that already has weights keeps them."""
        return self._complete(reconstruction_id, {"key": key, "size": size, "sha256": sha256})


def _errors(plan: dict[str, Any]) -> list[float]:
    """Predicted errors: that of the profile, then that of each pattern."""
    return [float(part["predicted_error"]) for part in (plan, *plan.get("tensors", ()))]
