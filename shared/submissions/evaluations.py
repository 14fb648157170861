"""Evaluations: checks of weights, guide, dataset and metrics, then a row and its job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.datasets import DatasetError, check_dataset
from phema.shared.edm2.sampling.guide_compatibility import guide_mismatch
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.metric import ScoredRun
from phema.shared.metrics.registry import METRICS, check_metrics, default_metrics
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.run_config import RunConfig
from phema.shared.submissions.errors import InvalidFields, NotFinished
from phema.shared.submissions.job_options import JobOptions, keep_live_job


@dataclass(frozen=True)
class EvaluationRequest:
    """Weights, guide and metrics, and the other fields of an `EvaluationRecipe`."""

    reconstruction_id: str
    fields: Mapping[str, Any]
    guide_id: str | None = None
    metrics: Sequence[str] | None = None
    """None for the defaults of the run."""


@dataclass(frozen=True)
class Subject:
    """A run that is to be sampled, and how errors name it."""

    run: catalog.Run
    field: str
    """The field of the request that names it."""
    shown: str
    """Begins sentences about the run, such as "reconstruction_id rec-1 belongs to run digits"."""

    @property
    def config(self) -> RunConfig:
        """Raises InvalidFields for a run whose configuration describes no network of phema."""
        try:
            return RunConfig.model_validate(self.run.config)
        except ValidationError as error:
            if self.run.origin == "trained":
                raise
            raise InvalidFields.of(
                self.field,
                f"{self.shown}, of another training loop, whose configuration describes no network of phema: it cannot "
                "be sampled or evaluated here, only downloaded",
            ) from error

    def check_dataset(self) -> None:
        """An imported run may have a network but no dataset to compare with. Raises InvalidFields."""
        config = self.config
        try:
            check_dataset(config.dataset, config.network)
        except DatasetError as error:
            raise InvalidFields.of(
                self.field,
                f"{self.shown}, whose configuration has no dataset to compare with ({error}); import it under another "
                "name with its dataset",
            ) from error


def check_guide(subject: Subject, guide: Subject, *, named: tuple[str, str]) -> None:
    """Compare the networks of two runs. `named`: how the sentence names guide and subject. Raises InvalidFields."""
    ours, theirs = subject.config.network, guide.config.network
    if (wrong := guide_mismatch(ours, theirs)) is not None:
        guide_name, subject_name = named
        raise InvalidFields.of(
            guide.field,
            f"{guide_name} has {wrong.field} {wrong.given}; to guide {subject_name} it must be {wrong.allowed}",
        )


def choose_metrics(config: RunConfig, asked: Sequence[str] | None, num_samples: int) -> tuple[str, ...]:
    """The metrics asked for, or the defaults of the run. Raises InvalidFields."""
    run = ScoredRun(
        dataset=config.dataset.name,
        channels=config.network.img_channels,
        resolution=config.network.img_resolution,
        held_out=config.dataset.held_out,
        vae=config.dataset.vae,
    )
    names = default_metrics(run, num_samples) if asked is None else tuple(asked)
    try:
        check_metrics(names, run, num_samples)
    except ScoringError as error:
        raise InvalidFields.of(error.field, str(error)) from error
    # In one order, without repeats, so that equal requests are one evaluation.
    return tuple(name for name in METRICS if name in names)


def submit(
    tx: Transaction, request: EvaluationRequest, options: JobOptions, *, unfinished_weights: bool = False
) -> catalog.Evaluation:
    """The evaluation with this recipe, with a job if it needs one.

    With `unfinished_weights`, weights may still be under way; the job then needs their jobs. Raises InvalidFields,
    NotFinished.
    """
    weights = [weights_of(tx, "reconstruction_id", request.reconstruction_id, may_be_under_way=unfinished_weights)]
    if request.guide_id is not None:
        weights.append(weights_of(tx, "guide_id", request.guide_id, may_be_under_way=unfinished_weights))
    subject = subject_of(tx, "reconstruction_id", weights[0])
    for guide in weights[1:]:
        named = (f"guide_id {guide.id}", weights[0].id)
        check_guide(subject, subject_of(tx, "guide_id", guide), named=named)
    subject.check_dataset()
    recipe = EvaluationRecipe.model_validate({**request.fields, "guide_id": request.guide_id})
    metrics = choose_metrics(subject.config, request.metrics, recipe.num_samples)
    recipe = recipe.model_copy(update={"metrics": metrics})
    row, needs_job = tx.evaluations.find_or_create(
        run_id=subject.run.id, reconstruction_id=weights[0].id, recipe=recipe.document()
    )
    if not needs_job:
        if row.state is not JobState.SUCCEEDED:
            keep_live_job(tx, row.job, options)
        return row
    waits_for = tuple(one.job_id for one in weights if one.job_id and one.state is not JobState.SUCCEEDED)
    job = _enqueue(tx, row, replace(options, needs=(*options.needs, *waits_for)))
    tx.evaluations.assign([row.id], job.id)
    return tx.evaluations.get(row.id)


def unfinished(what: str, state: JobState, job: catalog.Job | None) -> str:
    """One sentence about a result that does not exist."""
    if state.terminal:
        reason = f" ({job.error})" if job and job.error else ""
        return f"{what} has {state}{reason}; ask for it again to start another attempt"
    return f"{what} is {state}; wait until it has succeeded"


def weights_of(
    tx: Transaction, field: str, reconstruction_id: str, *, may_be_under_way: bool = False
) -> catalog.Reconstruction:
    """The finished reconstruction that `field` of a request names.

    Raises InvalidFields, NotFinished; catalog.RunToBeDeleted when its run is about to be deleted.
    """
    try:
        row = tx.reconstructions.get(reconstruction_id)
    except catalog.NotFound as error:
        raise InvalidFields.of(field, f"{field} {reconstruction_id!r} is no reconstruction") from error
    tx.jobs.refuse_to_be_deleted(row.run_id)
    if row.state is JobState.SUCCEEDED or (may_be_under_way and not row.state.terminal):
        return row
    raise NotFinished(field, f"{field}: {unfinished(f'reconstruction {row.id}', row.state, row.job)}")


def subject_of(tx: Transaction, field: str, row: catalog.Reconstruction) -> Subject:
    """The run of the reconstruction that `field` of a request names."""
    run = tx.runs.get(row.run_id)
    return Subject(run, field, f"{field} {row.id} belongs to run {run.name}")


def _enqueue(tx: Transaction, row: catalog.Evaluation, options: JobOptions) -> catalog.Job:
    job, _ = tx.jobs.enqueue(
        JobKind.EVALUATE,
        payload={"evaluation_id": row.id},
        content_key=content_key("evaluate", row.content_key),
        run_id=row.run_id,
        max_attempts=options.max_attempts,
        priority=options.priority,
        parent_id=options.parent_id,
        needs=options.needs,
    )
    return job
