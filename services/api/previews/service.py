"""Previews as answers, how long they take, and their pictures. `shared.submissions` checks and submits them."""

from __future__ import annotations

from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import NotFinished
from phema.services.api.previews.schemas import Preview, PreviewCreate, PreviewPlan
from phema.services.api.reconstructions.service import bytes_per_second, to_plan
from phema.shared import catalog
from phema.shared.catalog import JobState, Transaction
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions import previews
from phema.shared.submissions.evaluations import unfinished
from phema.shared.submissions.job_options import JobOptions
from phema.shared.submissions.previews import DrawingWork, Speeds

LARGE_SECONDS = 2.0
LARGE_PARAMETERS = 5_000_000
MEDIA_TYPE = "image/png"


def speeds(tx: Transaction, run_id: str) -> Speeds:
    """What was measured lately."""
    return previews.measured_speeds(tx, run_id, bytes_per_second(tx))


def to_preview_plan(planned: Plan, work: DrawingWork, measured: Speeds) -> PreviewPlan:
    drawing = work.gflops / measured.gflops if measured.gflops else None
    reading = planned.bytes_to_read / measured.bytes if measured.bytes else 0.0
    return PreviewPlan(
        plan=to_plan(planned, measured.bytes),
        parameters=work.parameters,
        seconds=None if drawing is None else drawing + reading,
        large=work.parameters > LARGE_PARAMETERS if drawing is None else drawing > LARGE_SECONDS,
    )


def create(tx: Transaction, run_id: str, planned: Plan, body: PreviewCreate, *, max_attempts: int) -> EndpointResult:
    """The preview with this request, and a job if it needs one. Raises SubmissionError."""
    row = previews.submit(tx, run_id, planned, body.request, body.sample, JobOptions(max_attempts))
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, to_preview(row))


def to_preview(row: catalog.Preview) -> Preview:
    plan, file, done = StoredPlan.model_validate(row.plan), row.result or {}, row.state is JobState.SUCCEEDED
    profile = Profile.model_validate(row.profile)
    return Preview(
        id=row.id,
        run_id=row.run_id,
        state=row.state,
        num_images=row.num_images,
        profile=row.profile,
        label=profile.label,
        sigma_rel=profile.sigma_rel,
        request=row.request,
        profile_error=plan.profile_error,
        rounding_error=plan.rounding_error,
        predicted_error=plan.predicted_error,
        noise_gain=plan.noise_gain,
        basis_id=plan.basis_id,
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        size=file.get("size"),
        sha256=file.get("sha256"),
        created_at=row.created_at,
    )


def download(tx: Transaction, preview_id: str) -> Download:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.previews.get(preview_id)
    if row.result is None:
        raise NotFinished(unfinished(f"preview {row.id}", row.state, row.job))
    stored = row.result
    return Download(stored["key"], stored["size"], stored["sha256"], f"{row.id}.png", MEDIA_TYPE, inline=True)
