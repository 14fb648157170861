"""Samples: checks of weights, guide and request, then a row and its job."""

from __future__ import annotations

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.evaluations import check_guide, subject_of, weights_of
from phema.shared.submissions.job_options import JobOptions, keep_live_job


def submit(tx: Transaction, reconstruction_id: str, request: SampleRequest, options: JobOptions) -> catalog.Sample:
    """The sample with this request, with a job if it needs one. Raises InvalidFields, NotFinished."""
    weights = weights_of(tx, "reconstruction_id", reconstruction_id)
    subject = subject_of(tx, "reconstruction_id", weights)
    if request.guide_id is not None:
        guide = weights_of(tx, "guide_id", request.guide_id)
        check_guide(subject, subject_of(tx, "guide_id", guide), named=(f"guide_id {guide.id}", weights.id))
    if (misfit := request.misfit(subject.config.network, subject.config.dataset)) is not None:
        raise InvalidFields.of(misfit.field, misfit.sentence)
    row, needs_job = tx.samples.find_or_create(
        run_id=weights.run_id, reconstruction_id=weights.id, request=request.model_dump(mode="json")
    )
    if not needs_job:
        if row.state is not JobState.SUCCEEDED:
            keep_live_job(tx, row.job, options)
        return row
    job, _ = tx.jobs.enqueue(
        JobKind.SAMPLE,
        payload={"sample_id": row.id},
        content_key=content_key("draw-sample", row.content_key),
        run_id=row.run_id,
        max_attempts=options.max_attempts,
        priority=options.priority,
        parent_id=options.parent_id,
        needs=options.needs,
    )
    tx.samples.assign([row.id], job.id)
    return tx.samples.get(row.id)
