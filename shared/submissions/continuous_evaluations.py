"""Continuous evaluations: a study of the run that its coordinator extends while the run trains."""

from __future__ import annotations

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, StudyKind, Transaction, content_key
from phema.shared.recipes.run_config import RunConfig
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.evaluations import choose_metrics
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.studies import start

FIELD = "config.evaluation"
"""Path of the continuous evaluation in a request for a run."""


def check(config: RunConfig) -> None:
    """Raise InvalidFields unless the run can be evaluated as its configuration asks."""
    if config.evaluation is None:
        return
    try:
        choose_metrics(config, config.evaluation.metrics, config.evaluation.num_samples)
    except InvalidFields as error:
        raise InvalidFields.of(f"{FIELD}.{error.field}", f"{FIELD}.{error}") from error


def follow(tx: Transaction, run: catalog.Run, options: JobOptions) -> catalog.Study | None:
    """The continuous evaluation of a run that got a new job; None for a run without one.

    One that a user has cancelled stays cancelled.
    """
    config = RunConfig.model_validate(run.config)
    if config.evaluation is None:
        return None
    metrics = choose_metrics(config, config.evaluation.metrics, config.evaluation.num_samples)
    spec = {**config.evaluation.model_dump(mode="json"), "metrics": list(metrics)}
    key = content_key("follow", run.id)
    study, _ = tx.studies.find_or_create(StudyKind.FOLLOW, run_id=run.id, spec=spec, content_key=key)
    if study.job is not None and study.job.state is JobState.CANCELLED:
        return study
    if study.job is None or study.job.state.terminal:
        study = start(tx, study, True, JobKind.FOLLOW, options)
    # The stop rule counts from here: a user who resumes a run wants to see more of it.
    return tx.studies.set_progress(study.id, {"since": run.num_images})
