"""From rows to tasks and back: what a claimed job asks for, and which results its end writes.

Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from phema.services.phema_worker.compact import compact_task, record_basis
from phema.services.phema_worker.evaluation import jobs as evaluations
from phema.services.phema_worker.evaluation.tasks import Drawn, DrawTask, Prepared, PrepareTask, Scored, ScoreTask
from phema.services.phema_worker.previews.preview_job import named_preview_keys, preview_task, record_preview
from phema.services.phema_worker.retain import record_removal, retain_task
from phema.services.phema_worker.sampling.sample_job import named_sample_keys, record_sample, sample_task
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.tasks import (
    CompactTask,
    Output,
    PreviewDone,
    PreviewTask,
    ReconstructTask,
    RetainTask,
    SampleDone,
    SampleTask,
    Task,
)
from phema.shared.catalog import Job, JobKind, NotFound, Reconstruction, Transaction, submission_id
from phema.shared.snapshots.combining.aligned_inputs import PASS_VERSION
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.object_keys import reconstruction_key


def task_of(tx: Transaction, job: Job) -> Task | None:
    """The unfinished part of a claimed job; None when all its results exist.

    Raises ImpossibleJob, and NotFound when a row that the job names is missing.
    """
    if job.kind is JobKind.RECONSTRUCT:
        rows = tx.reconstructions.by_ids(job.payload["reconstruction_ids"])
        pending = [row for row in rows if row.key is None]
        return _reconstruct_task(job, pending) if pending else None
    if job.kind is JobKind.COMPACT:
        return compact_task(tx, job)
    if job.kind is JobKind.RETAIN:
        return retain_task(tx, job)
    if job.kind is JobKind.SAMPLE:
        return sample_task(tx, job)
    if job.kind is JobKind.PREVIEW:
        return preview_task(tx, job)
    if job.kind is JobKind.DRAW:
        return evaluations.draw_task(tx, job)
    return evaluations.prepare_task(tx, job)


def begin_task(tx: Transaction, job: Job) -> Task | None:
    """As `task_of`. Also lists the objects that the task may write for deletion, until a row names them.

    The list makes sure that no object is forgotten: not when this process dies, and not when the job fails or is
    cancelled. Raises LeaseLost when another attempt has the job.
    """
    tx.leases.assert_fence(job.id, job.fence)
    task = task_of(tx, job)
    if task is not None:
        tx.deletions.expect(job.id, task.keys)
    return task


def next_task(tx: Transaction, job: Job, task: PrepareTask, prepared: Prepared) -> Task | None:
    """The task that follows the preparation of an evaluation, as `begin_task`. None when the job waits for parts.

    Raises LeaseLost, ImpossibleJob.
    """
    # In this order, as requests do: they lock the run and then change the job.
    tx.runs.lock(str(job.run_id))
    tx.leases.assert_fence(job.id, job.fence)
    following = evaluations.score_task(tx, job, task, prepared)
    if following is not None:
        tx.deletions.expect(job.id, following.keys)
    return following


def list_unnamed(tx: Transaction, job: Job, task: Task) -> list[str]:
    """List the objects of an attempt that lost its job: it may have written them after they were deleted.

    Returns the keys of those that are being deleted now, which may be listed once that has ended.
    """
    try:
        named = _named_keys(tx, task)
    except NotFound:
        named = set()  # the run was deleted since
    return tx.deletions.expect_most(job.id, sorted(set(task.keys) - named))


def _named_keys(tx: Transaction, task: Task) -> set[str]:
    """Keys of the finished objects in the rows of the task."""
    if isinstance(task, CompactTask):
        return {vector["key"] for vector in tx.bases.get(task.basis_id).vectors or ()}
    if isinstance(task, ReconstructTask):
        rows = tx.reconstructions.by_ids(output.result_id for output in task.outputs)
        return {row.key for row in rows if row.key is not None}
    if isinstance(task, ScoreTask):
        return evaluations.evaluation_objects(tx, task)
    if isinstance(task, DrawTask):
        return evaluations.part_objects(tx, task)
    if isinstance(task, SampleTask):
        return named_sample_keys(tx, task)
    if isinstance(task, PreviewTask):
        return named_preview_keys(tx, task)
    return set()


def complete_job(tx: Transaction, job: Job, task: Task | None, done: Done | None) -> Job:
    """Write the results and end the job in one transaction. Raises LeaseLost when another attempt has the job."""
    tx.leases.assert_fence(job.id, job.fence)
    result: dict[str, Any] = {}
    if isinstance(task, CompactTask) and done is not None:
        result = record_basis(tx, task, done)
    elif isinstance(task, RetainTask) and done is not None:
        result = record_removal(tx, job, task, done)
    elif isinstance(task, ReconstructTask) and done is not None:
        for output, written in zip(task.outputs, done.written, strict=True):
            tx.reconstructions.complete(output.result_id, written.key, written.size, written.sha256)
        result = {"bytes_read": task.bytes_to_read, "seconds": done.seconds}
    elif isinstance(task, DrawTask) and isinstance(done, Drawn):
        result = evaluations.record_part(tx, task, done)
    elif isinstance(task, ScoreTask) and isinstance(done, Scored):
        result = evaluations.record_figures(tx, task, done)
    elif isinstance(task, SampleTask) and isinstance(done, SampleDone):
        result = record_sample(tx, task, done)
    elif isinstance(task, PreviewTask) and isinstance(done, PreviewDone):
        result = record_preview(tx, task, done)
    if task is not None and done is not None:
        tx.deletions.named(_named_keys(tx, task) & set(task.keys))
    return tx.leases.succeed(job.id, job.fence, {**job.payload, **result})


def _reconstruct_task(job: Job, rows: list[Reconstruction]) -> ReconstructTask:
    """One pass for all rows: their snapshots together, with coefficient 0 where a row does without one."""
    plans = [StoredPlan.model_validate(row.plan) for row in rows]
    stored = {entry.id: entry.snapshot() for plan in plans for entry in plan.snapshots}
    inputs = sorted(stored.values(), key=lambda s: s.order)
    outputs = tuple(_output(job, row, plan, inputs) for row, plan in zip(rows, plans, strict=True))
    return ReconstructTask(submission_id(job.id, job.fence), tuple(inputs), outputs)


def _output(job: Job, row: Reconstruction, plan: StoredPlan, inputs: list[StoredSnapshot]) -> Output:
    """What the row asks for, under a key that says so: every attempt at the job writes the same bytes to it, and goes
    on with those of the one before. Another job has other keys, so that the end of one takes nothing from it."""
    ids = [snapshot.id for snapshot in plan.snapshots]

    def spread(coefficients: tuple[float, ...]) -> tuple[float, ...]:
        by_id = dict(zip(ids, coefficients, strict=True))
        return tuple(by_id.get(s.id, 0.0) for s in inputs)

    output = Output(
        result_id=row.id,
        num_images=row.num_images,
        key="",
        coefficients=spread(plan.coefficients),
        dtype=row.dtype,  # type: ignore[arg-type]  # checked when the metadata is built
        profile=Profile.model_validate(row.profile),
        lineage=plan.lineage(),
        tensors=tuple((tensor.pattern, spread(tensor.coefficients)) for tensor in plan.tensors or ()),
    )
    content = [job.id, PASS_VERSION, version("phema"), [(s.id, s.sha256) for s in inputs], asdict(output)]
    content_hash = sha256(json.dumps(content, sort_keys=True, default=_profile_key).encode()).hexdigest()
    return replace(output, key=reconstruction_key(row.run_id, row.id, content_hash[:16]))


def _profile_key(value: Profile) -> str:
    return value.key
