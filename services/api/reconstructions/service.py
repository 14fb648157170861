"""Reconstructions: the plan, known before a byte is read, and the rows and job that carry it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.api.downloads import Download
from services.api.errors import Invalid, NoSnapshots, NotFinished
from services.api.idempotency import Outcome
from services.api.jobs.service import to_job
from services.api.reconstructions import schemas
from services.api.schema import Page
from services.api.snapshots.service import MEDIA_TYPE, weights_filename
from shared import catalog
from shared.catalog import JobKind, JobState, Transaction, content_key
from shared.edm2.posthoc import PosthocError
from shared.snapshots import plan as planning
from shared.snapshots.plan import Plan, PlannedOutput, StoredSnapshot
from shared.snapshots.profile import Profile


@dataclass(frozen=True)
class Stored:
    """A run and every snapshot of its power-function EMAs, in order of time."""

    run: catalog.Run
    snapshots: tuple[StoredSnapshot, ...]


def stored(tx: Transaction, run: str) -> Stored:
    """Raises catalog.NotFound."""
    row = tx.runs.get(run)
    found = [
        StoredSnapshot(
            s.id,
            s.num_images,
            Profile.model_validate(s.profile),
            s.key,
            s.size,
            s.sha256,
            s.dtype,  # type: ignore[arg-type]  # checked when it was written
        )
        for s in tx.snapshots.list(row.id)
        if s.sigma_rel is not None
    ]
    return Stored(row, tuple(found))


def plan(held: Stored, body: schemas.ReconstructionCreate) -> Plan:
    """Coefficients and errors for every wanted profile. Raises NoSnapshots, Invalid."""
    if not held.snapshots:
        run, first = held.run, ""
        if run.origin == "trained":
            every = run.config["snapshot_every"]
            first = f"the first is written after {min(every, run.total_images)} images, "
        raise NoSnapshots(
            f"run {run.name} has no snapshots yet: {first}it has seen {run.num_images} and is {run.state}"
        )
    time = body.num_images if body.num_images is not None else _latest(held)
    try:
        return planning.plan(held.snapshots, [Profile.power(s) for s in body.sigma_rel], num_images=time)
    except planning.NoSnapshotAtTime as error:
        raise Invalid.of("num_images", str(error)) from error
    except (planning.PlanError, PosthocError) as error:
        raise Invalid.of("sigma_rel", str(error)) from error


def _latest(held: Stored) -> int:
    """The latest time at which every tracked EMA is stored; while a run trains, the very latest may be half there.

    What another training loop tracks is what it stored the time before.
    """
    stored_at: dict[int, set[str]] = {}
    for snapshot in [s for s in held.snapshots if s.profile.kind != "raw"] or held.snapshots:
        stored_at.setdefault(snapshot.num_images, set()).add(snapshot.profile.key)
    if held.run.origin == "trained":
        tracked = {Profile.power(sigma_rel).key for sigma_rel in held.run.config["ema_sigma_rels"]}
    else:
        tracked = stored_at[sorted(stored_at)[-2:][0]]
    return max((time for time, found in stored_at.items() if tracked <= found), default=max(stored_at))


def to_plan(planned: Plan) -> schemas.Plan:
    return schemas.Plan(
        num_images=planned.num_images,
        snapshots=[
            schemas.PlannedSnapshot(num_images=s.num_images, sigma_rel=s.profile.sigma_rel) for s in planned.snapshots
        ],
        outputs=[
            schemas.PlannedOutput(
                sigma_rel=output.profile.sigma_rel,
                coefficients=list(output.coefficients),
                predicted_error=output.errors.predicted_error,
                noise_gain=output.errors.noise_gain,
            )
            for output in planned.outputs
        ],
        bytes_to_read=planned.bytes_to_read,
    )


def create(tx: Transaction, run_id: str, planned: Plan, dtype: str, *, max_attempts: int) -> Outcome:
    """Rows for all outputs, and one job for those that nobody has asked for, or that failed before."""
    rows, lacking = [], []
    for output in planned.outputs:
        row, needs_job = tx.reconstructions.find_or_create(
            run_id=run_id,
            num_images=planned.num_images,
            profile=output.profile.model_dump(mode="json"),
            dtype=dtype,
            plan=_lineage(planned.snapshots, output),
        )
        rows.append(row)
        if needs_job:
            lacking.append(row)
    job = _enqueue(tx, run_id, planned.num_images, lacking, max_attempts) if lacking else None
    fresh = tx.reconstructions.by_ids(row.id for row in rows)
    answer = schemas.ReconstructionsAccepted(
        job=to_job(job) if job else None, reconstructions=[to_reconstruction(row) for row in fresh]
    )
    done = all(row.state is JobState.SUCCEEDED for row in fresh)
    return Outcome(200 if done else 202, answer)


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


def _lineage(snapshots: Sequence[StoredSnapshot], output: PlannedOutput) -> dict[str, object]:
    """The output's own part of the plan, so that a row does not depend on what else was asked for with it."""
    used = [(s, c) for s, c in zip(snapshots, output.coefficients, strict=True) if c != 0]
    return {
        "snapshots": [
            {
                "id": s.id,
                "num_images": s.num_images,
                "profile": s.profile.model_dump(mode="json"),
                "key": s.key,
                "size": s.size,
                "sha256": s.sha256,
                "dtype": s.dtype,
            }
            for s, _ in used
        ],
        "coefficients": [c for _, c in used],
        **asdict(output.errors),
    }


def to_reconstruction(row: catalog.Reconstruction) -> schemas.Reconstruction:
    done = row.state is JobState.SUCCEEDED
    return schemas.Reconstruction(
        id=row.id,
        run_id=row.run_id,
        state=row.state,
        num_images=row.num_images,
        sigma_rel=row.sigma_rel,
        dtype=row.dtype,
        predicted_error=row.plan["predicted_error"],
        noise_gain=row.plan["noise_gain"],
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        size=row.size,
        sha256=row.sha256,
        created_at=row.created_at,
    )


def detail(tx: Transaction, reconstruction_id: str) -> schemas.ReconstructionDetail:
    """Raises catalog.NotFound."""
    row = tx.reconstructions.get(reconstruction_id)
    return schemas.ReconstructionDetail(
        **dict(to_reconstruction(row)),
        snapshots=[
            schemas.UsedSnapshot(
                id=s["id"], num_images=s["num_images"], sigma_rel=s["profile"].get("sigma_rel"), sha256=s["sha256"]
            )
            for s in row.plan["snapshots"]
        ],
        coefficients=row.plan["coefficients"],
    )


def page(tx: Transaction, run: str, *, cursor: str | None, limit: int) -> Page[schemas.Reconstruction]:
    """Newest first. Raises catalog.NotFound, catalog.BadCursor."""
    found = tx.reconstructions.page(tx.runs.get(run).id, after=cursor, limit=limit)
    return Page(items=[to_reconstruction(row) for row in found.items], next_cursor=found.next_cursor)


def download(tx: Transaction, reconstruction_id: str) -> Download:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.reconstructions.get(reconstruction_id)
    if row.key is None or row.size is None:
        raise NotFinished(unfinished(f"reconstruction {row.id}", row.state, row.job))
    run = tx.runs.get(row.run_id).name
    return Download(row.key, row.size, row.sha256, weights_filename(run, row.num_images, row.profile), MEDIA_TYPE)


def unfinished(what: str, state: JobState, job: catalog.Job | None) -> str:
    """One sentence on a result that does not exist."""
    if state.terminal:
        reason = f" ({job.error})" if job and job.error else ""
        return f"{what} has {state}{reason}; ask for it again to start another attempt"
    return f"{what} is {state}; wait until it has succeeded"
