"""Pausing and extending runs."""

from __future__ import annotations

from pydantic import ValidationError

from phema.services.api.http.problems import Conflict, Invalid
from phema.services.api.run_control.schemas import Extension
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.recipes.run_config import RunConfig, hash_of_document
from phema.shared.submissions import continuous_evaluations
from phema.shared.submissions.job_options import JobOptions
from phema.shared.validation_sentences import sentence


def pause(tx: Transaction, run: str) -> Run:
    """Raises catalog.NotFound, catalog.WrongState, Conflict."""
    row = _trained(tx, run, "paused")
    return to_run(tx.run_control.pause(row.id))


def extend(tx: Transaction, run: str, body: Extension, *, max_attempts: int) -> Run:
    """Raises catalog.NotFound, catalog.WrongState, Conflict, Invalid."""
    row = _trained(tx, run, "extended")
    before = tx.run_control.lock(row.id).id
    row = tx.runs.get(row.id)
    if body.total_images <= row.total_images:
        raise Invalid.of(
            "total_images",
            f"total_images {body.total_images} must be larger than {row.total_images}, the length of run {row.name}",
        )
    document = {**row.config, "total_images": body.total_images}
    try:
        RunConfig.model_validate(document)
    except ValidationError as error:
        raise Invalid.of("total_images", sentence(error.errors(include_url=False)[0])) from error
    extended = tx.run_control.extend(
        row.id,
        config=document,
        config_hash=hash_of_document(document),
        total_images=body.total_images,
        max_attempts=max_attempts,
    )
    if extended.job_id != before:
        continuous_evaluations.follow(tx, extended, JobOptions(max_attempts))
    return to_run(extended)


def _trained(tx: Transaction, run: str, done: str) -> catalog.Run:
    row = tx.runs.get(run)
    if row.origin != "trained":
        raise Conflict(f"run {row.name} is {row.origin}; only a run that phema trains can be {done}")
    return row
