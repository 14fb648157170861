"""Forks: checks, then the new run with its job and its place in the other run's history."""

from __future__ import annotations

from pydantic import ValidationError

from phema.services.api.forks.schemas import ForkCreate
from phema.services.api.http.problems import Invalid, NameTaken
from phema.services.api.http.schema_base import Page
from phema.services.api.run_plans.service import field_error, misfits, name_taken
from phema.services.api.runs.schemas import Run
from phema.services.api.runs.service import to_run
from phema.shared import catalog
from phema.shared.catalog import EventKind, Transaction
from phema.shared.recipes.completion import complete
from phema.shared.recipes.presets import InvalidConfig
from phema.shared.recipes.run_config import RunConfig
from phema.shared.submissions import continuous_evaluations
from phema.shared.submissions import forks as submissions
from phema.shared.submissions.job_options import JobOptions


def fork(tx: Transaction, run: str, body: ForkCreate, *, max_attempts: int) -> Run:
    """The new run and its queued job. Raises catalog.NotFound, SubmissionError, Invalid, NameTaken."""
    parent = tx.runs.get(run)
    tx.runs.lock(parent.id)
    origin = submissions.origin_of(tx, parent, body.num_images, body.reconstruction_id)
    config = _configure(parent, body)
    submissions.check(config, origin)
    if wrong := misfits(config, None):
        raise Invalid(wrong)
    try:
        row = tx.runs.create(
            body.name,
            config.model_dump(mode="json"),
            config.config_hash,
            config.total_images,
            max_attempts,
            parent=origin.document,
            num_images=origin.begins_at,
        )
    except catalog.NameTaken as error:
        raise NameTaken(name_taken(body.name)) from error
    tx.run_events.record(
        parent.id,
        EventKind.FORKED,
        details={"run_id": row.id, "name": row.name, "num_images": origin.num_images},
    )
    continuous_evaluations.follow(tx, row, JobOptions(max_attempts))
    return to_run(tx.runs.get(row.id))


def _configure(parent: catalog.Run, body: ForkCreate) -> RunConfig:
    """The other run's configuration with the wanted changes. Raises Invalid."""
    if "preset" in body.config:
        raise Invalid.of("config.preset", f"config.preset cannot be changed; a fork keeps that of run {parent.name}")
    try:
        RunConfig.model_validate(parent.config)
    except ValidationError as error:
        raise Invalid.of(
            "run",
            f"run {parent.name} cannot be forked: its configuration describes no training of phema",
            place="path",
        ) from error
    try:
        return complete(str(parent.config["preset"]), parent.config, {}, body.config)
    except InvalidConfig as error:
        raise Invalid([field_error(path, sentence) for path, sentence in error.problems]) from error


def forks(tx: Transaction, run: str) -> Page[Run]:
    """Raises catalog.NotFound."""
    return Page(items=[to_run(row) for row in tx.run_forks.of(tx.runs.get(run).id)])
