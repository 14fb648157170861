"""The worker process: its actor slots, its metrics, and the expiry of leases that other workers have lost."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from phema.services.phema_worker.actor_demand import ActorDemand
from phema.services.phema_worker.actor_slot import KINDS, ActorSlot
from phema.shared.catalog import Catalog, CatalogUnreachable, JobState
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.service_runtime.work_waker import WorkWaker
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry.metrics import JOB_SECONDS
from phema.shared.wiring import store_from

DELETION_SECONDS = 5.0
"""Interval at which a worker looks for objects that are listed for deletion."""
log = logging.getLogger(__name__)


class Worker:
    """`settings.worker_actors` actor slots in one process that is connected to Ray. One actor is always there; the
    others are started for jobs that are due."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._meters = Meters("worker")
        self._expiry = LeaseExpiry(catalog, KINDS, lease_s=settings.lease_seconds)
        self._demand = ActorDemand(settings, catalog, KINDS)
        for kind, state in itertools.product(KINDS, JobState):
            if state.terminal:
                self._meters.begin(JOB_SECONDS, kind=kind.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. Raises the error of a slot that failed, once the others have stopped."""
        host, interval_s = self._settings.metrics_host, self._settings.lease_seconds / 4
        with (
            announced(self._meters, self._catalog, host, interval_s=interval_s),
            WorkWaker(self._catalog, self._settings.poll_seconds) as waker,
        ):
            with ThreadPoolExecutor(self._settings.worker_actors + 1, thread_name_prefix="slot") as pool:
                slots = [pool.submit(self._slot(i, stopping, waker).run) for i in range(self._settings.worker_actors)]
                slots.append(pool.submit(self._delete_listed, stopping))
                for slot in slots:
                    slot.add_done_callback(lambda _: stopping.set())
                while not stopping.is_set():
                    self._expire_leases()
                    stopping.wait(interval_s)
            self._raise_first(slots)

    def _slot(self, index: int, stopping: threading.Event, waker: WorkWaker) -> ActorSlot:
        owner = f"worker-{socket.gethostname()}-{os.getpid()}-{index}"
        feed = JobFeed(self._catalog, waker, KINDS, owner=owner, lease_s=self._settings.lease_seconds)
        return ActorSlot(feed, self._settings, self._catalog, self._meters, self._demand, stopping)

    def _delete_listed(self, stopping: threading.Event) -> None:
        """Delete the objects that the catalog lists for deletion, until `stopping` is set."""
        store = store_from(self._settings)
        while not stopping.is_set():
            try:
                deleted = delete_listed(self._catalog, store, stopping=stopping)
                if deleted:
                    log.info("deleted %d objects that no row names", deleted)
            except (CatalogUnreachable, SnapshotError) as error:
                log.warning("objects that no row names are deleted later: %s", error)
            stopping.wait(DELETION_SECONDS)

    def _expire_leases(self) -> None:
        """Queue the jobs of workers that no longer send heartbeats again."""
        try:
            expired = self._expiry.expire()
        except CatalogUnreachable as error:
            log.warning("%s", error)
            return
        for job in expired:
            with log_fields(**job.ids):
                log.warning("a lease ran out; the job is %s", job.state)

    def _raise_first(self, slots: list[Future[None]]) -> None:
        for slot in slots:
            slot.result()
