"""Samples as answers, and their files. `shared.submissions` checks and submits them."""

from __future__ import annotations

from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import NotFinished
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.samples.schemas import Sample, SampleCreate
from phema.shared import catalog
from phema.shared.catalog import JobState, Transaction
from phema.shared.recipes.sample_request import MEDIA_TYPE, SUFFIX, SampleRequest
from phema.shared.snapshots.profile import Profile
from phema.shared.submissions import samples
from phema.shared.submissions.evaluations import unfinished
from phema.shared.submissions.job_options import JobOptions


def create(tx: Transaction, body: SampleCreate, *, max_attempts: int) -> EndpointResult:
    """The sample with this request, and a job if it needs one. Raises SubmissionError."""
    row = samples.submit(tx, body.reconstruction_id, body.request(), JobOptions(max_attempts))
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, to_sample(row))


def to_sample(row: catalog.Sample) -> Sample:
    request, done = SampleRequest.model_validate(row.request), row.state is JobState.SUCCEEDED
    file = row.result or {}
    return Sample(
        id=row.id,
        run_id=row.run_id,
        reconstruction_id=row.reconstruction_id,
        num_images=row.reconstruction.num_images,
        profile=row.reconstruction.profile,
        label=Profile.model_validate(row.reconstruction.profile).label,
        sigma_rel=row.reconstruction.sigma_rel,
        state=row.state,
        request=request,
        num_pictures=len(request.seeds),
        size=file.get("size"),
        sha256=file.get("sha256"),
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        created_at=row.created_at,
    )


def page(tx: Transaction, *, run: str | None, cursor: str | None, limit: int) -> Page[Sample]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.samples.page(run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_sample(row) for row in found.items], next_cursor=found.next_cursor)


def file(tx: Transaction, sample_id: str) -> Download:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.samples.get(sample_id)
    if row.result is None:
        raise NotFinished(unfinished(f"sample {row.id}", row.state, row.job))
    kind, stored = SampleRequest.model_validate(row.request).format, row.result
    name = f"{row.id}.{SUFFIX[kind]}"
    return Download(stored["key"], stored["size"], stored["sha256"], name, MEDIA_TYPE[kind], inline=kind == "grid")
