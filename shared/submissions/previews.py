"""Previews: pictures of an average that is not stored. Checks of guide and request, then a row and its job."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared import catalog
from phema.shared.catalog import JobKind, JobState, Transaction, content_key
from phema.shared.edm2.networks.costs import costs
from phema.shared.recipes.drawing_cost import drawing_gflops
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.planning.plan import Plan
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.submissions.errors import InvalidFields
from phema.shared.submissions.evaluations import Subject, check_guide, subject_of, weights_of
from phema.shared.submissions.job_options import JobOptions, keep_live_job
from phema.shared.submissions.reconstructions import ReconstructionRequest
from phema.shared.submissions.stored_inputs import refuse_retired

KEPT = 500
"""Previews that are kept of each run: the newest. The pictures of older ones are deleted."""
MAX_SEEDS = 64
_MEASURED = 8
"""Number of previews from which speeds are estimated."""


@dataclass(frozen=True)
class DrawingWork:
    """How large the work of a preview is."""

    parameters: int
    """Of the run's network."""
    gflops: float
    """10^9 flops of all evaluations of the network and its guide."""


@dataclass(frozen=True)
class Speeds:
    """Speeds of the latest previews and reconstructions, per second; None where nothing was measured."""

    bytes: float | None
    gflops: float | None


def measured_speeds(tx: Transaction, run_id: str, bytes_per_second: float | None) -> Speeds:
    """Of the latest previews of the run; if it has none, of all runs.

    `bytes_per_second`: reading speed of reconstructions, used where no preview has read anything.
    """
    results = tx.previews.latest_results(run_id, _MEASURED) or tx.previews.latest_results(None, _MEASURED)
    read, reading = (sum(result[name] for result in results) for name in ("bytes_read", "read_seconds"))
    drawn, drawing = (sum(result[name] for result in results) for name in ("gflops", "draw_seconds"))
    return Speeds(read / reading if read and reading else bytes_per_second, drawn / drawing if drawing else None)


def check(tx: Transaction, run: catalog.Run, request: SampleRequest) -> DrawingWork:
    """Check everything that can be checked without weights. Raises InvalidFields, NotFinished."""
    subject, guide = Subject(run, "run", f"run names {run.name}"), None
    network = subject.config.network
    if request.guide_id is not None:
        weights = weights_of(tx, "guide_id", request.guide_id)
        other = subject_of(tx, "guide_id", weights)
        check_guide(subject, other, named=(f"guide_id {weights.id}", f"run {run.name}"))
        guide = other.config.network
    if (misfit := request.misfit(network, subject.config.dataset)) is not None:
        raise InvalidFields.of(misfit.field, misfit.sentence)
    return DrawingWork(costs(network).num_parameters, drawing_gflops(request, network, guide))


def submit(
    tx: Transaction,
    run_id: str,
    planned: Plan,
    wanted: ReconstructionRequest,
    request: SampleRequest,
    options: JobOptions,
) -> catalog.Preview:
    """The preview with this request, with a job if it needs one. Makes room by removing old previews of the run.

    `planned` has one output, which `wanted` names. Raises SnapshotsGone.
    """
    (output,) = planned.outputs
    stored = StoredPlan.of(planned, output, regularize=wanted.regularize)
    row, needs_job = tx.previews.find_or_create(
        run_id=run_id,
        num_images=planned.num_images,
        profile=output.profile.model_dump(mode="json"),
        solve={"regularize": wanted.regularize, "tolerance": wanted.tolerance},
        request=request.model_dump(mode="json"),
        plan=stored.to_json(),
    )
    if not needs_job:
        if row.state is not JobState.SUCCEEDED:
            keep_live_job(tx, row.job, options)
        return row
    # The run is locked: snapshots that are not retired yet stay until the job has read them.
    if planned.basis_id is None:
        refuse_retired(tx, [snapshot.id for snapshot in planned.snapshots])
    job, _ = tx.jobs.enqueue(
        JobKind.PREVIEW,
        payload={"preview_id": row.id},
        # Of the row, not of the request: a request whose preview was removed is drawn again.
        content_key=content_key("preview", row.id),
        run_id=run_id,
        max_attempts=options.max_attempts,
        priority=options.priority,
    )
    tx.previews.assign([row.id], job.id)
    tx.deletions.release(tx.previews.prune(run_id, KEPT))
    return tx.previews.get(row.id)
