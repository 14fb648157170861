"""The thread that claims jobs of kind `delete`. It needs no actor: it deletes rows and objects."""

from __future__ import annotations

import threading

from phema.services.phema_worker.deletion.delete_run import RunDeletion
from phema.services.phema_worker.leased_work import End, LeasedWork
from phema.shared.catalog import Catalog, Job
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.lease_holder import LeaseHolder
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore, SnapshotError
from phema.shared.telemetry import Meters


class RunDeleter(LeasedWork):
    """Deletes one run after another."""

    def __init__(
        self,
        feed: JobFeed,
        settings: Settings,
        catalog: Catalog,
        store: ObjectStore,
        meters: Meters,
        stopping: threading.Event,
    ) -> None:
        super().__init__(feed, settings, catalog, meters, stopping)
        self._store = store

    def _perform(self, job: Job, lease: LeaseHolder) -> End:
        try:
            return RunDeletion(self._catalog, self._store, job, self._stopping).perform()
        except SnapshotError as error:
            sentence = str(error)
            return lambda tx: tx.leases.fail(job.id, job.fence, sentence, retry=True)
