"""Bases: plans from the stored snapshots, rows and jobs, and answers."""

from __future__ import annotations

from phema.services.api.bases import schemas
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import Invalid, NoSnapshots
from phema.services.api.http.schema_base import Page
from phema.services.api.jobs.service import to_job
from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.edm2.averaging.posthoc import PosthocError
from phema.shared.edm2.averaging.weightings import WeightingError
from phema.shared.snapshots.planning.basis_plan import BasisPlan, BasisSummary, plan_basis
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.planning.reconstruction_times import NoSnapshotAtTime, PlanError
from phema.shared.submissions.stored_inputs import StoredInputs, refuse_retired


def plan(inputs: StoredInputs, body: schemas.BasisCreate) -> BasisPlan:
    """The plan of a finished basis that covers the request, or of a new basis. Raises NoSnapshots, Invalid."""
    if not inputs.snapshots:
        raise NoSnapshots(f"run {inputs.run.name} has no snapshots; there is nothing to compact")
    num_images = body.num_images if body.num_images is not None else inputs.latest
    covering = [
        basis.plan
        for basis in inputs.bases
        if basis.plan.covers(
            num_images,
            sigma_rel_min=body.sigma_rel_min,
            sigma_rel_max=body.sigma_rel_max,
            tolerance=body.tolerance,
            profiles=body.profiles,
        )
    ]
    if covering:
        return min(covering, key=lambda found: len(found.vectors))
    _check_profiles(body, num_images)
    try:
        return plan_basis(
            inputs.snapshots,
            num_images=num_images,
            sigma_rel_min=body.sigma_rel_min,
            sigma_rel_max=body.sigma_rel_max,
            tolerance=body.tolerance,
            probes=inputs.probes,
            update_images=inputs.update_images,
            profiles=body.profiles,
        )
    except NoSnapshotAtTime as error:
        raise Invalid.of("num_images", str(error)) from error
    except (PlanError, PosthocError) as error:
        raise Invalid.of("tolerance", str(error)) from error


def to_plan(inputs: StoredInputs, planned: BasisPlan) -> schemas.BasisPlan:
    """`planned` is the result of `plan`."""
    made = next((basis.id for basis in inputs.bases if basis.plan is planned), None)
    return schemas.BasisPlan(
        num_images=planned.num_images,
        sigma_rel_min=planned.sigma_rel_min,
        sigma_rel_max=planned.sigma_rel_max,
        tolerance=planned.tolerance,
        profiles=[profile.model_dump(mode="json") for profile in planned.profiles],
        vectors=len(planned.vectors),
        snapshots=[
            schemas.BasisSnapshot(num_images=s.num_images, profile=s.profile.model_dump(mode="json"))
            for s in planned.snapshots
        ],
        bytes_to_read=0 if made else planned.bytes_to_read,
        bytes_to_store=0 if made else planned.bytes_to_store,
        error_added=planned.error,
        basis_id=made,
    )


def create(tx: Transaction, run_id: str, planned: BasisPlan, *, max_attempts: int) -> EndpointResult:
    """A row and its job, unless the same basis was requested before. Raises SnapshotsGone."""
    row, needs_job = tx.bases.find_or_create(
        run_id=run_id,
        num_images=planned.num_images,
        sigma_rel_min=planned.sigma_rel_min,
        sigma_rel_max=planned.sigma_rel_max,
        tolerance=planned.tolerance,
        plan=planned.model_dump(mode="json"),
    )
    job = None
    if needs_job:
        # The run is locked: snapshots that are not retired yet stay until the job has read them.
        refuse_retired(tx, [snapshot.id for snapshot in planned.snapshots])
        job, _ = tx.jobs.enqueue(
            JobKind.COMPACT,
            payload={"run_id": run_id, "num_images": planned.num_images, "basis_id": row.id},
            content_key=content_key("compact", row.content_key),
            run_id=run_id,
            max_attempts=max_attempts,
        )
        tx.bases.assign([row.id], job.id)
        row = tx.bases.get(row.id)
    answer = schemas.BasisAccepted(job=to_job(job) if job else None, basis=to_basis(row))
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, answer)


def to_basis(row: catalog.Basis) -> schemas.Basis:
    plan = BasisSummary.model_validate(row.plan)
    done = row.vectors is not None
    return schemas.Basis(
        id=row.id,
        run_id=row.run_id,
        state=row.state,
        num_images=row.num_images,
        sigma_rel_min=row.sigma_rel_min,
        sigma_rel_max=row.sigma_rel_max,
        tolerance=row.tolerance,
        profiles=plan.profiles,
        vectors=len(plan.vectors),
        error_added=plan.error,
        size=sum(vector["size"] for vector in row.vectors) if row.vectors is not None else None,
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        created_at=row.created_at,
    )


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[schemas.Basis]:
    """Newest first. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.bases.page(tx.runs.get(run).id, after=cursor, limit=limit)
    return Page(items=[to_basis(row) for row in found.items], next_cursor=found.next_cursor)


def _check_profiles(body: schemas.BasisCreate, num_images: int | None) -> None:
    """Raises Invalid."""
    for profile in body.profiles:
        try:
            weighting(profile, num_images or 0)
        except WeightingError as error:
            raise Invalid.of("profiles", f"profiles: {error}") from error
