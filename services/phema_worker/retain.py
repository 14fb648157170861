"""`retain` jobs: the objects of retired snapshots are deleted, then their rows.

Retired rows are those that a policy has given up, in the transaction that asked for the job. No plan names them and
none comes back, so that an attempt may die on any line: the next one, or that of a later job of the run, finds the rows
that are left and does the same again. A row goes only when its object is gone; an attempt that has not heard for long
that the job is still its own deletes nothing more, since a later one may have removed the rows, and their objects may
have been uploaded anew.
"""

from __future__ import annotations

from typing import Any

from phema.services.phema_worker.task_progress import Watch
from phema.services.phema_worker.tasks import Done, RetainTask
from phema.shared.catalog import Job, Transaction, submission_id
from phema.shared.snapshots.stores.interface import ObjectStore


def retain_task(tx: Transaction, job: Job) -> RetainTask | None:
    """Everything of the run that is retired and still has a row; None when nothing is."""
    rows = tx.snapshots.retired(str(job.run_id))
    if not rows:
        return None
    return RetainTask(
        token=submission_id(job.id, job.fence),
        snapshot_ids=tuple(row.id for row in rows),
        doomed=tuple(row.key for row in rows),
        bytes_to_free=sum(row.size for row in rows),
    )


def delete_objects(store: ObjectStore, task: RetainTask, watch: Watch) -> None:
    """Delete what may be gone already, while the job is held. Raises Cancelled between two objects, SnapshotError."""
    watch.message = f"deleting {len(task.doomed)} snapshots"
    watch.expect(len(task.doomed))
    for key in task.doomed:
        watch.check_held()
        store.delete(key)
        watch.advance(1)


def record_removal(tx: Transaction, job: Job, task: RetainTask, done: Done) -> dict[str, Any]:
    """Remove the rows; what the job's result says of them."""
    # Whoever registers a snapshot from outside holds the same lock.
    tx.runs.lock(str(job.run_id))
    removed = tx.snapshots.remove(task.snapshot_ids)
    return {"snapshots_removed": removed, "bytes_freed": task.bytes_to_free, "seconds": done.seconds}
