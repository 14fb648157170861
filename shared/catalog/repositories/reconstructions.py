"""Reconstructions: one row per wanted profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, column, func, select
from sqlalchemy.orm import defer

from phema.shared.catalog.column_types import Json, dump_json
from phema.shared.catalog.content_keys import content_key as key_of
from phema.shared.catalog.models import Reconstruction
from phema.shared.catalog.pagination import Page, cut, decode_cursor, encode_cursor
from phema.shared.catalog.repositories.repository import FRESH
from phema.shared.catalog.repositories.results import ResultRepository

_AS_GOOD = 1.03
"""A plan may leave unread what raises its error by 2 %; which snapshots it reads depends on what else is asked for."""

SAID = ("profile_error", "rounding_error", "predicted_error", "noise_gain", "regularize", "advice")
"""What summaries tell of a plan."""


@dataclass(frozen=True)
class Summary:
    """A row whose `plan` is not loaded, and the fields SAID of it; None for one that the plan lacks."""

    row: Reconstruction
    said: dict[str, Any]


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
        defaults to everything that the weights depend on: run, time, profile, dtype, whether the solve is regularised,
        the contents of the snapshots used and their coefficients.
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

    def summaries(self, run_id: str, *, after: str | None = None, limit: int = 50) -> Page[Summary]:
        """Those of a run, newest first, without their plans: of many snapshots these are long."""
        query = (
            select(Reconstruction, self._said())
            .where(Reconstruction.run_id == run_id)
            .options(defer(Reconstruction.plan, raiseload=True))
            .order_by(Reconstruction.seq.desc())
        )
        if after is not None:
            query = query.where(Reconstruction.seq < decode_cursor(after, int)[0])
        found = self._session.execute(query.limit(limit + 1), execution_options=FRESH)
        summaries = [Summary(row, dict(zip(SAID, said, strict=True))) for row, said in found]
        return cut(summaries, limit, lambda summary: encode_cursor(summary.row.seq))

    def _said(self) -> ColumnElement[list[Any]]:
        """The fields SAID of the plan, taken out in the database; either spelling leaves every digit as it is."""
        if self._postgresql:
            # As one record: every `->` would parse the whole plan once more.
            fields = func.json_to_record(Reconstruction.plan).table_valued(*(column(name, Json) for name in SAID))
            record = fields.render_derived(with_types=True)
            said = func.json_build_array(*(record.c[name] for name in SAID), type_=Json)
            return select(said).select_from(record).correlate(Reconstruction).scalar_subquery()
        return func.json_extract(Reconstruction.plan, *(f"$.{name}" for name in SAID), type_=Json)

    def as_good(
        self,
        *,
        run_id: str,
        num_images: int,
        profile: dict[str, Any],
        dtype: str,
        regularize: bool,
        predicted_errors: Sequence[float],
    ) -> Reconstruction | None:
        """A row, finished or under way, that promises the same weights at least as exactly, whatever they are made of:
        the snapshots may be gone by now, or a basis may have come. None when there is none.

        `predicted_errors`: the profile's own and, of a per-tensor one, of every pattern in order.

        Locks the run until the transaction ends, as `find_or_create` does.
        """
        self._runs.lock(run_id)
        query = select(Reconstruction).where(
            Reconstruction.run_id == run_id,
            Reconstruction.num_images == num_images,
            Reconstruction.dtype == dtype,
            # As text, in the database: plans are long, and a run may have thousands of them.
            cast(Reconstruction.profile, Text) == dump_json(profile),
        )
        found = [
            row
            for row in self._all(query.order_by(Reconstruction.seq))
            if not row.needs_job
            and row.plan.get("regularize", True) == regularize
            and all(
                there <= _AS_GOOD * wanted for there, wanted in zip(_errors(row.plan), predicted_errors, strict=True)
            )
        ]
        # What is there goes before what has to be waited for.
        return min(found, key=lambda row: (row.key is None, max(_errors(row.plan))), default=None)

    def keys(self, run_id: str) -> set[str]:
        """Of all finished weights of a run."""
        query = select(Reconstruction.key).where(Reconstruction.run_id == run_id, Reconstruction.key.is_not(None))
        return {str(key) for key in self._session.scalars(query)}

    def complete(self, reconstruction_id: str, key: str, size: int, sha256: str) -> Reconstruction:
        """Register the finished weights; a row that has some keeps them."""
        return self._complete(reconstruction_id, {"key": key, "size": size, "sha256": sha256})


def _errors(plan: dict[str, Any]) -> list[float]:
    """Predicted, of the profile and of every pattern."""
    return [float(part["predicted_error"]) for part in (plan, *plan.get("tensors", ()))]
