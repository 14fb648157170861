"""Runs: from a preset and overrides to a row with its job, and from rows to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from phema.services.api.http.problems import NameTaken
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.services.api.run_plans.service import name_taken
from phema.services.api.runs.run_list import RunList
from phema.services.api.runs.schemas import HistoryRow, Parent, Run, RunCreate
from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.catalog.pagination import decode_cursor, encode_cursor
from phema.shared.recipes.run_config import RunConfig
from phema.shared.submissions import continuous_evaluations
from phema.shared.submissions.job_options import JobOptions


def create(tx: Transaction, body: RunCreate, config: RunConfig, *, max_attempts: int) -> Run:
    """The run and its queued job. Raises NameTaken."""
    try:
        row = tx.runs.create(
            body.name, config.model_dump(mode="json"), config.config_hash, config.total_images, max_attempts
        )
    except catalog.NameTaken as error:
        raise NameTaken(name_taken(body.name)) from error
    continuous_evaluations.follow(tx, row, JobOptions(max_attempts))
    return to_run(row)


def to_run(row: catalog.Run) -> Run:
    return Run(
        id=row.id,
        name=row.name,
        state=row.run_state,
        origin=row.origin,
        preset=_preset(row),
        num_images=row.num_images,
        total_images=row.total_images,
        config=row.config,
        config_hash=row.config_hash,
        created_at=row.created_at,
        parent=None if row.parent is None else _parent(row.parent),
        delete_at=row.delete_at,
        silent_since=None if row.state.terminal else row.silent_since,
        job=to_job(row.job),
        error=row.job.error,
        cause=row.job.cause,
    )


def _parent(document: Mapping[str, Any]) -> Parent:
    return Parent(
        run_id=document["run_id"],
        num_images=document["num_images"],
        checkpoint_id=document.get("checkpoint_id"),
        reconstruction_id=document.get("reconstruction_id"),
    )


def _preset(row: catalog.Run) -> str | None:
    preset = row.config.get("preset")
    return preset if isinstance(preset, str) else None


def page(tx: Transaction, listed: RunList, *, cursor: str | None, limit: int) -> Page[Run]:
    """The runs that fit, in order. Raises catalog.BadCursor."""
    found = tx.runs.list(
        state=listed.state,
        name=listed.name,
        origin=listed.origin,
        preset=listed.preset,
        sort=listed.sort,
        order=listed.order,
        after=cursor,
        limit=limit,
    )
    return Page(items=[to_run(row) for row in found.items], next_cursor=found.next_cursor)


def cancel(tx: Transaction, run: str) -> Run:
    """Raises catalog.NotFound."""
    tx.jobs.request_cancel(tx.runs.get(run).job_id)
    return to_run(tx.runs.get(run))


def resume(tx: Transaction, run: str, *, max_attempts: int) -> Run:
    """Raises catalog.NotFound."""
    row = tx.runs.get(run)
    if row.origin != "trained":
        return to_run(tx.external_runs.reopen(row.id))
    before = tx.run_control.lock(row.id).id
    resumed = tx.run_control.resume(row.id, max_attempts)
    if resumed.job_id != before:
        continuous_evaluations.follow(tx, resumed, JobOptions(max_attempts))
    return to_run(resumed)


def history(tx: Transaction, run: str, *, after: int | None, cursor: str | None, limit: int) -> Page[HistoryRow]:
    """In order of time. Raises catalog.NotFound, catalog.BadCursor."""
    position = after if cursor is None else decode_cursor(cursor, int)[0]
    found = tx.history.list(tx.runs.get(run).id, position, limit)
    rows = [HistoryRow(num_images=row.num_images, values=finite(row.values)) for row in found.items]
    return Page(items=rows, next_cursor=encode_cursor(rows[-1].num_images) if found.next_cursor else None)


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with NaN and infinity, which JSON does not have, replaced by None."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
