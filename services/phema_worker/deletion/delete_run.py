"""One attempt at the deletion of a run. It may die at any point, and the next attempt continues.

1. Jobs of the run that are unfinished are cancelled; the deletion waits until they have ended.
2. A record in the store says that the run is deleted. From here on, a rebuild of the catalog leaves the run out.
3. One transaction removes the rows of all results and lists their objects for deletion, with all other objects that
   are stored under the run's id. From here on, nothing of the run is served.
4. The objects are deleted. Any worker may delete them: they are on the list of deletions.
5. One transaction ends the job and records the event.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from phema.services.phema_worker.leased_work import End
from phema.shared.catalog import Catalog, EventKind, Job, JobState, Run, Transaction
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.snapshots import ObjectStore, SnapshotError
from phema.shared.snapshots.files.deleted_runs import DeletedRun, keys_of_run, record_deletion
from phema.shared.snapshots.stores.object_keys import model_key
from phema.shared.submissions.run_deletions import obstacles

RETRY_SECONDS = 5.0
"""Pause before the deletion looks again for objects that another worker is deleting or that the store has kept."""
_BATCH = 1000
"""Objects that are looked for at once."""


@dataclass
class RunDeletion:
    """The deletion that one claimed job asks for."""

    catalog: Catalog
    store: ObjectStore
    job: Job
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process stops."""

    @property
    def run_id(self) -> str:
        return str(self.job.run_id)

    def perform(self) -> End:
        """Raises LeaseLost, CatalogError and SnapshotError."""
        with self.catalog.transaction(read_only=True) as tx:
            removed = tx.run_deletions.is_removed(self.run_id)
        if not removed:
            with self.catalog.transaction() as tx:
                if (wait := self._wait(tx)) is not None:
                    return wait
                run = tx.runs.get(self.run_id)
            self._remove(run)
        return self._delete_objects()

    def _wait(self, tx: Transaction) -> End | None:
        """Cancel the run's jobs. None when nothing is left to wait for."""
        tx.runs.lock(self.run_id)
        tx.leases.assert_fence(self.job.id, self.job.fence)
        run = tx.runs.get(self.run_id)
        reason = f"Run {run.name} is deleted."
        cancelled = [tx.jobs.request_cancel(job.id, reason) for job in tx.jobs.live_of(self.run_id)]
        unfinished = [job.id for job in cancelled if not job.state.terminal]
        found = obstacles(tx, run, with_models=bool(self.job.payload.get("models")))
        # Requests that were under way when the deletion was asked for may have found their way since.
        lasting = [obstacle.sentence for obstacle in found if obstacle.job_id is None] if not unfinished else []
        if lasting:
            sentence = "; ".join(lasting)
            return lambda tx: tx.leases.fail(self.job.id, self.job.fence, sentence, retry=False)
        needs = [*unfinished, *(obstacle.job_id for obstacle in found if obstacle.job_id is not None)]
        if not needs:
            return None
        message = f"waits for {len(needs)} unfinished jobs"
        return lambda tx: tx.leases.wait_for(self.job.id, self.job.fence, needs, message=message).state

    def _remove(self, run: Run) -> None:
        # In this order: without its rows, only the record keeps a rebuild from restoring the run.
        record_deletion(self.store, DeletedRun(id=run.id, name=run.name, delete_at=float(run.delete_at or 0)))
        # Outside of any transaction: on SQLite, all writers would wait for the store.
        stored = [key for key, _ in keys_of_run(self.store, run.id)]
        with self.catalog.transaction() as tx:
            tx.runs.lock(run.id)
            tx.leases.assert_fence(self.job.id, self.job.fence)
            models = [model_key(model.id) for model in tx.run_deletions.models(run.id)]
            tx.run_deletions.remove(run.id, [*stored, *models])
            tx.leases.made_progress(self.job.id, self.job.fence)

    def _delete_objects(self) -> End:
        while not self.stopping.is_set():
            with self.catalog.transaction(read_only=True) as tx:
                keys = tx.deletions.keys_of(self.run_id, _BATCH)
            if not keys:
                return self._succeed
            try:
                deleted = delete_listed(self.catalog, self.store, keys, stopping=self.stopping)
            except SnapshotError as error:
                # The rows are gone, so there is no way back: the job goes on when the store does.
                return self._pause(f"objects are deleted later: {error}")
            if not deleted:
                break  # another worker is deleting them
            with self.catalog.transaction() as tx:
                tx.leases.made_progress(self.job.id, self.job.fence)
        return self._pause("deleting objects")

    def _pause(self, message: str) -> End:
        def wait(tx: Transaction) -> JobState:
            state = tx.leases.wait_for(self.job.id, self.job.fence, (), message=message).state
            tx.leases.postpone(self.job.id, message, RETRY_SECONDS)
            return state

        return wait

    def _succeed(self, tx: Transaction) -> JobState:
        state = tx.leases.succeed(self.job.id, self.job.fence, dict(self.job.payload)).state
        tx.run_events.record(self.run_id, EventKind.DELETED, job_id=self.job.id, attempt=self.job.fence)
        return state
