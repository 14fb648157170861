"""`retain` jobs: delete the objects of retired snapshots, then their rows.

The transaction that enqueued the job has retired the rows. Plans no longer use a retired row, and it is never restored.
An attempt may die at any point: the next attempt, or a later job of the run, finds the remaining rows and repeats the
deletion. A row is removed only after its object. An attempt deletes only while it surely has the job: otherwise a later
attempt may have removed the rows, and the same objects may have been uploaded again.
"""

from __future__ import annotations

from typing import Any

from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.tasks import RetainTask
from phema.shared.catalog import Job, Transaction, submission_id
from phema.shared.snapshots.stores.interface import ObjectStore


def retain_task(tx: Transaction, job: Job) -> RetainTask | None:
    """The task that deletes all retired snapshots of the run; None when there are none."""
    rows = tx.snapshots.retired(str(job.run_id))
    if not rows:
        return None
    return RetainTask(
        token=submission_id(job.id, job.fence),
        snapshot_ids=tuple(row.id for row in rows),
        doomed=tuple(row.key for row in rows),
        bytes_to_free=sum(row.size for row in rows),
    )


def delete_objects(store: ObjectStore, task: RetainTask, progress: TaskProgress) -> None:
    """Delete the objects, which may be gone already. Raises SnapshotError; Cancelled when stopped or no longer held."""
    progress.message = f"deleting {len(task.doomed)} snapshots"
    progress.expect(len(task.doomed))
    for key in task.doomed:
        progress.check_held()
        store.delete(key)
        progress.advance(1)


def record_removal(tx: Transaction, job: Job, task: RetainTask, done: Done) -> dict[str, Any]:
    """Remove the rows of the deleted objects. Returns the fields of the job's result."""
    # The API holds the same lock when it registers a snapshot of an external run.
    tx.runs.lock(str(job.run_id))
    removed = tx.snapshots.remove(task.snapshot_ids)
    return {"snapshots_removed": removed, "bytes_freed": task.bytes_to_free, "seconds": done.seconds}
