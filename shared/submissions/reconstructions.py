"""Reconstructions: plans, which need no weights and no transaction, then rows and the job for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.snapshots.planning import planner
from phema.shared.snapshots.planning.candidate_snapshots import without_raw
from phema.shared.snapshots.planning.plan import Plan, PlannedOutput
from phema.shared.snapshots.planning.reconstruction_times import NoSnapshotAtTime, PlanError, last_sampled
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.job_options import JobOptions, keep_live_job
from phema.shared.submissions.stored_inputs import StoredInputs, refuse_retired


@dataclass(frozen=True)
class ReconstructionRequest:
    """Averages of a run at one time."""

    profiles: tuple[Profile, ...]
    num_images: int | None = None
    """None: the last time of a sampled profile, else the latest time at which every tracked average is stored."""
    dtype: str = "float32"
    regularize: bool = True
    tolerance: float | None = None
    field: str = "profiles"
    """The field of the user's request that names the averages, for errors."""


@dataclass(frozen=True)
class SubmittedReconstructions:
    rows: list[catalog.Reconstruction]
    """One per profile, in order."""
    job: catalog.Job | None
    """The job for the rows that needed one; None when none did."""


def plan(inputs: StoredInputs, request: ReconstructionRequest) -> Plan:
    """Coefficients and errors for every wanted profile. Takes milliseconds to seconds: call it outside transactions.

    Raises NoSnapshots, InvalidFields.
    """
    inputs.refuse_empty()
    try:
        return planner.plan(
            without_raw(inputs.snapshots, regularize=request.regularize),
            request.profiles,
            num_images=request.num_images or last_sampled(request.profiles) or inputs.latest,
            regularize=request.regularize,
            tolerance=request.tolerance,
            probes=inputs.probes,
            bases=inputs.bases,
            update_images=inputs.update_images,
            calibrator=inputs.calibrator,
        )
    except NoSnapshotAtTime as error:
        raise InvalidFields.of("num_images", str(error)) from error
    except (PlanError, PosthocError) as error:
        raise InvalidFields.of(request.field, f"{request.field}: {error}") from error


def submit(
    tx: Transaction, run_id: str, planned: Plan, request: ReconstructionRequest, options: JobOptions
) -> SubmittedReconstructions:
    """Rows for all outputs, and one job for those that are new or have failed before.

    Raises SnapshotsGone.
    """
    rows, to_make = [], []
    for output in planned.outputs:
        row, needs_job = _row(tx, run_id, planned, output, request)
        rows.append(row)
        if needs_job:
            to_make.append(row)
        elif row.state is not JobState.SUCCEEDED:
            keep_live_job(tx, row.job, options)
    job = None
    if to_make:
        # The run is locked: snapshots that are not retired yet stay until the job has read them.
        if planned.basis_id is None:
            refuse_retired(tx, [snapshot.id for snapshot in planned.snapshots])
        job = _enqueue(tx, run_id, planned.num_images, to_make, options)
    return SubmittedReconstructions(tx.reconstructions.by_ids(row.id for row in rows), job)


def _row(
    tx: Transaction, run_id: str, planned: Plan, output: PlannedOutput, request: ReconstructionRequest
) -> tuple[catalog.Reconstruction, bool]:
    """The row of an output, and whether it needs a job. An existing row that is as good is used again."""
    question: dict[str, Any] = {
        "run_id": run_id,
        "num_images": planned.num_images,
        "profile": output.profile.model_dump(mode="json"),
        "dtype": request.dtype,
    }
    errors = [part.predicted_error for part in (output.errors, *(t.errors for t in output.tensors))]
    known = tx.reconstructions.find_equivalent(**question, regularize=request.regularize, predicted_errors=errors)
    if known is not None:
        return known, False
    stored = StoredPlan.of(planned, output, regularize=request.regularize)
    return tx.reconstructions.find_or_create(**question, plan=stored.to_json())


def _enqueue(
    tx: Transaction, run_id: str, num_images: int, rows: Sequence[catalog.Reconstruction], options: JobOptions
) -> catalog.Job:
    ids = [row.id for row in rows]
    job, _ = tx.jobs.enqueue(
        JobKind.RECONSTRUCT,
        payload={"run_id": run_id, "num_images": num_images, "reconstruction_ids": ids},
        content_key=content_key("reconstruct", sorted(row.content_key for row in rows)),
        run_id=run_id,
        max_attempts=options.max_attempts,
        priority=options.priority,
        parent_id=options.parent_id,
        needs=options.needs,
    )
    tx.reconstructions.assign(ids, job.id)
    return job
