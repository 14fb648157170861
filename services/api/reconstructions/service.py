"""Reconstructions: rows and plans as answers, and files. `shared.submissions` plans and submits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import NotFinished
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.services.api.reconstructions import schemas
from phema.services.api.snapshots.service import MEDIA_TYPE, weights_filename
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction
from phema.shared.snapshots.planning.learning_rate import learning_rate_multipliers
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.stored_plan import PlanSummary, StoredPlan, StoredTensorCoefficients
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions import reconstructions
from phema.shared.submissions.evaluations import unfinished
from phema.shared.submissions.job_options import JobOptions

_MEASURED = 8
"""Number of jobs from which the reading speed of the store is estimated."""


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
                learning_rate=[
                    schemas.LearningRateMultiplier(num_images=m.num_images, multiplier=m.multiplier)
                    for m in learning_rate_multipliers(output.profile, planned.num_images)
                ],
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

    Raises submissions.SnapshotsGone.
    """
    made = reconstructions.submit(tx, run_id, planned, body.request, JobOptions(max_attempts))
    answer = schemas.ReconstructionsAccepted(
        job=to_job(made.job) if made.job else None, reconstructions=[to_reconstruction(row) for row in made.rows]
    )
    done = all(row.state is JobState.SUCCEEDED for row in made.rows)
    return EndpointResult(200 if done else 202, answer)


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
