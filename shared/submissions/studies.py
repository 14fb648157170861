"""What the requests of all studies share: the runs and times that they name, and the job of a study."""

from __future__ import annotations

from collections.abc import Sequence

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.snapshots.planning.reconstruction_times import NoSnapshotAtTime, choose_time
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.job_options import JobOptions, keep_live_job
from phema.shared.submissions.stored_inputs import StoredInputs, load_stored_inputs


def start(tx: Transaction, study: catalog.Study, needs_job: bool, kind: JobKind, options: JobOptions) -> catalog.Study:
    """Give the study a job if it needs one, or if some of its points have failed. Call with the run locked.

    A study needs a job when it is requested, extended, or requested again after failures.
    """
    if not needs_job and (study.job is None or not study.job.state.terminal):
        keep_live_job(tx, study.job, options)
        return study
    again = [
        point.number
        for point in tx.studies.points(study.id)
        if point.error is not None
        or (point.evaluation is not None and point.evaluation.state is not JobState.SUCCEEDED)
    ]
    if not needs_job and not again:
        return study
    for number in again:
        tx.studies.set_point(study.id, number, reconstruction_id=None, evaluation_id=None, error=None)
    tx.studies.set_progress(study.id, {})
    tx.studies.extend(study.id, study.spec)
    job, _ = tx.jobs.enqueue(
        kind,
        payload={"study_id": study.id},
        # A study that is continued has a new job each time.
        content_key=content_key(kind.value, [study.content_key, study.job_id]),
        run_id=study.run_id,
        max_attempts=options.max_attempts,
        priority=options.priority,
        parent_id=options.parent_id,
        needs=options.needs,
    )
    return tx.studies.assign(study.id, job)


def inputs_of(tx: Transaction, field: str, run: str) -> StoredInputs:
    """What is stored of a run. Raises InvalidFields if `run`, the value of `field`, is no run; RunToBeDeleted."""
    try:
        found = load_stored_inputs(tx, run, probes=False)
    except catalog.NotFound as error:
        raise InvalidFields.of(field, f"{field} {run!r} is neither the id nor the name of a run") from error
    tx.jobs.refuse_to_be_deleted(found.run.id)
    return found


def times_of(inputs: StoredInputs, field: str, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Times with snapshots; by default the latest. Raises NoSnapshots, InvalidFields."""
    inputs.refuse_empty()
    if asked is None:
        return (inputs.latest,)
    stored = {*(s.num_images for s in inputs.snapshots), *(b.num_images for b in inputs.bases)}
    try:
        return tuple(choose_time(stored, time) for time in asked)
    except NoSnapshotAtTime as error:
        sentence = str(error)
        prefix = field.removesuffix("num_images")
        raise InvalidFields.of(field, f"{prefix}{sentence}") from error
