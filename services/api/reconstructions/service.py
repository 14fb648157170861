"""Reconstructions: plans, which need no weights; the rows and the job for them; answers and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from phema.services.api.bases.service import refuse_lost
from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import Invalid, NoSnapshots, NotFinished
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.services.api.reconstructions import schemas
from phema.services.api.reconstructions.stored_inputs import StoredInputs
from phema.services.api.snapshots.service import MEDIA_TYPE, weights_filename
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.snapshots.planning import planner as planning
from phema.shared.snapshots.planning.plan import Plan, PlannedOutput
from phema.shared.snapshots.planning.reconstruction_times import NoSnapshotAtTime, PlanError
from phema.shared.snapshots.planning.stored_plan import PlanSummary, StoredPlan, StoredTensorCoefficients
from phema.shared.snapshots.profile import Profile

_MEASURED = 8
"""Number of jobs from which the reading speed of the store is estimated."""


def plan(inputs: StoredInputs, body: schemas.ReconstructionCreate) -> Plan:
    """Coefficients and errors for every wanted profile. Raises NoSnapshots, Invalid."""
    if not inputs.snapshots and not inputs.bases:
        run, first = inputs.run, ""
        if run.origin == "trained":
            every = run.config["snapshot_every"]
            first = f"the first is written after {min(every, run.total_images)} images, "
        raise NoSnapshots(
            f"run {run.name} has no snapshots yet: {first}it has seen {run.num_images} and is {run.state}"
        )
    # Plain least squares compares profiles only, and the impulse of raw weights is near no profile: leave them out.
    usable = [s for s in inputs.snapshots if body.regularize or s.profile.kind != "raw"] or inputs.snapshots
    try:
        return planning.plan(
            usable,
            body.wanted,
            num_images=body.num_images or _last_sampled(body.wanted) or inputs.latest,
            regularize=body.regularize,
            tolerance=body.tolerance,
            probes=inputs.probes,
            bases=inputs.bases,
            update_images=inputs.update_images,
        )
    except NoSnapshotAtTime as error:
        raise Invalid.of("num_images", str(error)) from error
    except (PlanError, PosthocError) as error:
        raise Invalid.of(body.field, f"{body.field}: {error}") from error


def _last_sampled(wanted: Sequence[Profile]) -> int | None:
    """The last time of a sampled profile, if there is one among the wanted."""
    parts = [part for p in wanted for part in (p, p.default, *(t.profile for t in p.tensors or ()))]
    return next((part.times[-1] for part in parts if part is not None and part.times), None)


def bytes_per_second(tx: Transaction) -> float | None:
    """Reading speed of the latest reconstructions, in bytes per second; None before the first one."""
    jobs = tx.jobs.list(kind=JobKind.RECONSTRUCT, state=JobState.SUCCEEDED, limit=_MEASURED).items
    # A later attempt continues the work of an earlier one, so its seconds do not cover all bytes that it counts.
    results = [job.result for job in jobs if job.fence == 1 and job.result and job.result.get("seconds")]
    seconds = sum(result["seconds"] for result in results)
    return sum(result["bytes_read"] for result in results) / seconds if seconds else None


def to_plan(planned: Plan, speed: float | None) -> schemas.Plan:
    return schemas.Plan(
        num_images=planned.num_images,
        snapshots=[
            schemas.PlannedSnapshot(
                id=s.id,
                num_images=s.num_images,
                profile=s.profile.model_dump(mode="json"),
                sigma_rel=s.profile.sigma_rel,
            )
            for s in planned.snapshots
        ],
        outputs=[
            schemas.PlannedOutput(
                profile=output.profile.model_dump(mode="json"),
                label=output.profile.label,
                sigma_rel=output.profile.sigma_rel,
                coefficients=list(output.coefficients),
                advice=output.advice,
                tensors=[_to_tensors(StoredTensorCoefficients.of(tensor)) for tensor in output.tensors],
                **asdict(output.errors),
            )
            for output in planned.outputs
        ],
        bytes_to_read=planned.bytes_to_read,
        seconds=planned.bytes_to_read / speed if speed else None,
        calibrated=planned.calibrated,
        basis_id=planned.basis_id,
    )


def create(
    tx: Transaction, run_id: str, planned: Plan, body: schemas.ReconstructionCreate, *, max_attempts: int
) -> EndpointResult:
    """Rows for all outputs, and one job for those that are new or have failed before.

    Raises SnapshotsGone.
    """
    rows, to_make = [], []
    for output in planned.outputs:
        row, needs_job = _row(tx, run_id, planned, output, body)
        rows.append(row)
        if needs_job:
            to_make.append(row)
    job = None
    if to_make:
        # The run is locked: snapshots that are not retired yet stay until the job has read them.
        if planned.basis_id is None:
            refuse_lost(tx, [snapshot.id for snapshot in planned.snapshots])
        job = _enqueue(tx, run_id, planned.num_images, to_make, max_attempts)
    fresh = tx.reconstructions.by_ids(row.id for row in rows)
    answer = schemas.ReconstructionsAccepted(
        job=to_job(job) if job else None, reconstructions=[to_reconstruction(row) for row in fresh]
    )
    done = all(row.state is JobState.SUCCEEDED for row in fresh)
    return EndpointResult(200 if done else 202, answer)


def _row(
    tx: Transaction, run_id: str, planned: Plan, output: PlannedOutput, body: schemas.ReconstructionCreate
) -> tuple[catalog.Reconstruction, bool]:
    """The row of an output, and whether it needs a job. An existing row that is as good is used again."""
    question: dict[str, Any] = {
        "run_id": run_id,
        "num_images": planned.num_images,
        "profile": output.profile.model_dump(mode="json"),
        "dtype": body.dtype,
    }
    errors = [part.predicted_error for part in (output.errors, *(t.errors for t in output.tensors))]
    known = tx.reconstructions.find_equivalent(**question, regularize=body.regularize, predicted_errors=errors)
    if known is not None:
        return known, False
    stored = StoredPlan.of(planned, output, regularize=body.regularize)
    return tx.reconstructions.find_or_create(**question, plan=stored.to_json())


def _enqueue(
    tx: Transaction, run_id: str, num_images: int, rows: Sequence[catalog.Reconstruction], max_attempts: int
) -> catalog.Job:
    ids = [row.id for row in rows]
    job, _ = tx.jobs.enqueue(
        JobKind.RECONSTRUCT,
        payload={"run_id": run_id, "num_images": num_images, "reconstruction_ids": ids},
        content_key=content_key("reconstruct", sorted(row.content_key for row in rows)),
        run_id=run_id,
        max_attempts=max_attempts,
    )
    tx.reconstructions.assign(ids, job.id)
    return job


def _to_tensors(tensors: StoredTensorCoefficients) -> schemas.TensorCoefficients:
    return schemas.TensorCoefficients(**tensors.to_json(), label=tensors.profile.label)


def to_reconstruction(row: catalog.Reconstruction, said: Mapping[str, Any] | None = None) -> schemas.Reconstruction:
    """`said`: what the row's plan says of it, where that is not loaded."""
    summary = PlanSummary.model_validate(row.plan if said is None else said)
    done = row.state is JobState.SUCCEEDED
    return schemas.Reconstruction(
        id=row.id,
        run_id=row.run_id,
        state=row.state,
        num_images=row.num_images,
        profile=row.profile,
        label=Profile.model_validate(row.profile).label,
        sigma_rel=row.sigma_rel,
        dtype=row.dtype,
        regularize=summary.regularized,
        advice=summary.advice,
        profile_error=summary.profile_error,
        rounding_error=summary.rounding_error,
        predicted_error=summary.predicted_error,
        noise_gain=summary.noise_gain,
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        size=row.size,
        sha256=row.sha256,
        created_at=row.created_at,
    )


def detail(tx: Transaction, reconstruction_id: str) -> schemas.ReconstructionDetail:
    """Raises catalog.NotFound."""
    row = tx.reconstructions.get(reconstruction_id)
    plan = StoredPlan.model_validate(row.plan)
    return schemas.ReconstructionDetail(
        **dict(to_reconstruction(row)),
        snapshots=[
            schemas.UsedSnapshot(
                id=s.id,
                num_images=s.num_images,
                profile=s.profile.model_dump(mode="json"),
                sigma_rel=s.profile.sigma_rel,
                sha256=s.sha256,
            )
            for s in plan.snapshots
        ],
        coefficients=list(plan.coefficients),
        tensors=[_to_tensors(tensors) for tensors in plan.tensors or ()],
        basis_id=plan.basis_id,
    )


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[schemas.Reconstruction]:
    """Newest first. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.reconstructions.summaries(tx.runs.get(run).id, after=cursor, limit=limit)
    items = [to_reconstruction(summary.row, summary.plan_fields) for summary in found.items]
    return Page(items=items, next_cursor=found.next_cursor)


def download(tx: Transaction, reconstruction_id: str) -> Download:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.reconstructions.get(reconstruction_id)
    if row.key is None or row.size is None:
        raise NotFinished(unfinished(f"reconstruction {row.id}", row.state, row.job))
    run = tx.runs.get(row.run_id).name
    return Download(row.key, row.size, row.sha256, weights_filename(run, row.num_images, row.profile), MEDIA_TYPE)


def unfinished(what: str, state: JobState, job: catalog.Job | None) -> str:
    """One sentence about a result that does not exist."""
    if state.terminal:
        reason = f" ({job.error})" if job and job.error else ""
        return f"{what} has {state}{reason}; ask for it again to start another attempt"
    return f"{what} is {state}; wait until it has succeeded"
