"""Runs: from a preset and overrides to a row with its job, and from rows to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from phema.services.api.http.problems import FieldError, Invalid, NameTaken
from phema.services.api.http.schema_base import MAX_COUNT, Page
from phema.services.api.jobs.service import to_job
from phema.services.api.runs.schemas import HistoryRow, Run, RunCreate
from phema.shared import catalog
from phema.shared.catalog import JobState, Transaction
from phema.shared.catalog.pagination import decode_cursor, encode_cursor
from phema.shared.datasets import DatasetError, check_dataset
from phema.shared.recipes.presets import InvalidConfig, UnknownPreset, resolve
from phema.shared.recipes.run_config import RunConfig


def configure(body: RunCreate) -> RunConfig:
    """The complete configuration of the request, checked against its dataset. Raises Invalid."""
    if "preset" in body.config:
        raise Invalid.of("config.preset", "config.preset is given twice; name the preset only in the field preset")
    try:
        config = resolve(body.preset, body.config)
    except UnknownPreset as error:
        raise Invalid.of("preset", str(error)) from error
    except InvalidConfig as error:
        raise Invalid([_field_error(path, sentence) for path, sentence in error.problems]) from error
    _check_counts(config.model_dump(mode="json"))
    try:
        check_dataset(config.dataset, config.network)
    except DatasetError as error:
        raise Invalid.of("config", f"config: {error}") from error
    return config


def create(tx: Transaction, body: RunCreate, config: RunConfig, *, max_attempts: int) -> Run:
    """The run and its queued job. Raises NameTaken."""
    try:
        row = tx.runs.create(
            body.name, config.model_dump(mode="json"), config.config_hash, config.total_images, max_attempts
        )
    except catalog.NameTaken as error:
        raise NameTaken(f"name {body.name!r} is taken by another run; choose one that is free") from error
    return to_run(row)


def to_run(row: catalog.Run) -> Run:
    return Run(
        id=row.id,
        name=row.name,
        state=row.state,
        origin=row.origin,
        preset=_preset(row),
        num_images=row.num_images,
        total_images=row.total_images,
        config=row.config,
        config_hash=row.config_hash,
        created_at=row.created_at,
        job=to_job(row.job),
        error=row.job.error,
    )


def _preset(row: catalog.Run) -> str | None:
    preset = row.config.get("preset")
    return preset if isinstance(preset, str) else None


def page(tx: Transaction, *, state: JobState | None, cursor: str | None, limit: int) -> Page[Run]:
    """Newest first. Raises catalog.BadCursor."""
    found = tx.runs.list(state=state, after=cursor, limit=limit)
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
    return to_run(tx.runs.resume(row.id, max_attempts))


def history(tx: Transaction, run: str, *, after: int | None, cursor: str | None, limit: int) -> Page[HistoryRow]:
    """In order of time. Raises catalog.NotFound, catalog.BadCursor."""
    position = after if cursor is None else decode_cursor(cursor, int)[0]
    found = tx.history.list(tx.runs.get(run).id, position, limit)
    rows = [HistoryRow(num_images=row.num_images, values=finite(row.values)) for row in found.items]
    return Page(items=rows, next_cursor=encode_cursor(rows[-1].num_images) if found.next_cursor else None)


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with NaN and infinity, which JSON does not have, replaced by None."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _field_error(path: str, sentence: str) -> FieldError:
    field = f"config.{path}" if path else "config"
    return FieldError("body", field, f"{field} {sentence}" if path else f"config: {sentence}")


def _check_counts(config: Any, path: str = "config") -> None:
    """Refuse integers that a database or a float cannot represent exactly. Raises Invalid."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            _check_counts(value, f"{path}.{name}")
    elif isinstance(config, int) and config > MAX_COUNT:
        raise Invalid.of(path, f"{path} {config} must be at most {MAX_COUNT}")
