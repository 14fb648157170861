"""Evaluations: checks, rows and jobs, answers, and the file of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from phema.services.api.evaluations.schemas import Evaluation, EvaluationCreate
from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import Damaged, Invalid, NotFinished
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.reconstructions.service import unfinished
from phema.services.api.runs.service import finite
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.datasets import DatasetError, check_dataset
from phema.shared.edm2.sampling.guide_compatibility import guide_mismatch
from phema.shared.metrics.registry import available_metrics
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe, MetricName
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.verification import digest


def create(tx: Transaction, body: EvaluationCreate, *, max_attempts: int) -> EndpointResult:
    """The evaluation with this recipe, and a job if it needs one. Raises Invalid, NotFinished."""
    subject = _finished(tx, "reconstruction_id", body.reconstruction_id)
    if body.guide_id is not None:
        _check_guide(tx, subject, _finished(tx, "guide_id", body.guide_id))
    _check_dataset(tx, subject)
    recipe = body.recipe(_metrics(tx, subject, body.metrics))
    row, needs_job = tx.evaluations.find_or_create(
        run_id=subject.run_id, reconstruction_id=subject.id, recipe=recipe.model_dump(mode="json")
    )
    if needs_job:
        job, _ = tx.jobs.enqueue(
            JobKind.EVALUATE,
            payload={"evaluation_id": row.id},
            content_key=content_key("evaluate", row.content_key),
            run_id=subject.run_id,
            max_attempts=max_attempts,
        )
        tx.evaluations.assign([row.id], job.id)
        row = tx.evaluations.get(row.id)
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, to_evaluation(row))


def _finished(tx: Transaction, field: str, reconstruction_id: str) -> catalog.Reconstruction:
    try:
        row = tx.reconstructions.get(reconstruction_id)
    except catalog.NotFound as error:
        raise Invalid.of(field, f"{field} {reconstruction_id!r} is no reconstruction") from error
    if row.state is not JobState.SUCCEEDED:
        raise NotFinished(f"{field}: {unfinished(f'reconstruction {row.id}', row.state, row.job)}")
    return row


def _check_guide(tx: Transaction, subject: catalog.Reconstruction, guide: catalog.Reconstruction) -> None:
    """Compare the networks of the two runs with `guide_mismatch`. Raises Invalid."""
    ours = _config(tx, "reconstruction_id", subject).network
    theirs = _config(tx, "guide_id", guide).network
    if (wrong := guide_mismatch(ours, theirs)) is not None:
        raise Invalid.of(
            "guide_id",
            f"guide_id {guide.id} has {wrong.field} {wrong.given}; to guide {subject.id} it must be {wrong.allowed}",
        )


def _check_dataset(tx: Transaction, subject: catalog.Reconstruction) -> None:
    """An imported run may have a network but no dataset to compare with. Raises Invalid."""
    config = _config(tx, "reconstruction_id", subject)
    try:
        check_dataset(config.dataset, config.network)
    except DatasetError as error:
        raise Invalid.of(
            "reconstruction_id",
            f"reconstruction_id {subject.id} belongs to run {tx.runs.get(subject.run_id).name}, whose configuration "
            f"has no dataset to compare with ({error}); import it under another name with its dataset",
        ) from error


def _metrics(
    tx: Transaction, subject: catalog.Reconstruction, asked: Sequence[MetricName] | None
) -> Sequence[MetricName]:
    """The requested metrics; by default all that the run supports. Raises Invalid."""
    held_out = _config(tx, "reconstruction_id", subject).dataset.held_out
    allowed = available_metrics(held_out=held_out)
    if asked is None:
        return allowed
    if impossible := [name for name in asked if name not in allowed]:
        raise Invalid.of(
            "metrics",
            f"metrics names {impossible[0]}, but the run of {subject.id} has dataset.held_out {held_out}: it kept no "
            f"pictures for that, only {', '.join(allowed)} is allowed",
        )
    return asked


def _config(tx: Transaction, field: str, row: catalog.Reconstruction) -> RunConfig:
    """The run's configuration. Raises Invalid for a run whose configuration describes no network of phema."""
    run = tx.runs.get(row.run_id)
    try:
        return RunConfig.model_validate(run.config)
    except ValidationError as error:
        if run.origin == "trained":
            raise
        raise Invalid.of(
            field,
            f"{field} {row.id} belongs to run {run.name}, of another training loop, whose configuration describes no "
            "network of phema: it cannot be sampled or evaluated here, only downloaded",
        ) from error


def to_evaluation(row: catalog.Evaluation) -> Evaluation:
    done = row.state is JobState.SUCCEEDED
    return Evaluation(
        id=row.id,
        run_id=row.run_id,
        reconstruction_id=row.reconstruction_id,
        num_images=row.reconstruction.num_images,
        profile=row.reconstruction.profile,
        label=Profile.model_validate(row.reconstruction.profile).label,
        sigma_rel=row.reconstruction.sigma_rel,
        state=row.state,
        recipe=EvaluationRecipe.model_validate(row.recipe),
        figures=finite(row.figures) if row.figures is not None else None,
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        created_at=row.created_at,
    )


def page(tx: Transaction, *, run: str | None, cursor: str | None, limit: int) -> Page[Evaluation]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.evaluations.page(run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_evaluation(row) for row in found.items], next_cursor=found.next_cursor)


def pictures_key(tx: Transaction, evaluation_id: str) -> str:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.evaluations.get(evaluation_id)
    if row.pictures_key is None:
        raise NotFinished(unfinished(f"evaluation {row.id}", row.state, row.job))
    return row.pictures_key


def pictures(store: ObjectStore, evaluation_id: str, key: str) -> Download:
    """Size and hash come from the store: the catalog does not have them. Raises Damaged."""
    info = store.head(key)
    if info is None:
        raise Damaged(f"the pictures of evaluation {evaluation_id} are missing from the store")
    if info.sha256 is None and store.local_path(key) is not None:
        info = digest(store, key)
    return Download(key, info.size, info.sha256, f"{evaluation_id}.png", "image/png", inline=True)
