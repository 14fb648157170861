"""The worker process: its actor slots, its metrics, and the expiry of leases that other workers have lost."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from phema.services.phema_worker.actor_demand import ActorDemand
from phema.services.phema_worker.actor_slot import KINDS, ActorSlot
from phema.services.phema_worker.coordination.coordinator import STEPS, Coordinator
from phema.services.phema_worker.deletion.run_deleter import RunDeleter
from phema.services.phema_worker.previews.preview_slot import PreviewSlot
from phema.services.phema_worker.warm_actors import WarmActors
from phema.shared.catalog import Catalog, CatalogUnreachable, JobKind, JobState
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.lease_expiry import LeaseExpiry
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.service_runtime.object_deletion import delete_listed
from phema.shared.service_runtime.outage_log import OutageLog
from phema.shared.service_runtime.work_waker import WorkWaker
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry.metrics import JOB_SECONDS
from phema.shared.wiring import store_from

DAY_SECONDS = 86_400.0
EXPIRY_SECONDS = 3_600.0
"""Interval at which a worker looks for features of old evaluations."""
DELETION_SECONDS = 5.0
"""Interval at which a worker looks for objects that are listed for deletion."""
ALL_KINDS = (*KINDS, JobKind.PREVIEW, *STEPS, JobKind.DELETE)
"""Kinds of jobs that the worker does."""
log = logging.getLogger(__name__)


class Worker:
    """`settings.worker_actors` actor slots in one process that is connected to Ray. One actor is always there; the
    others are started for jobs that are due. Previews borrow one that is there."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._meters = Meters("worker")
        self._outages = OutageLog()
        self._expiry = LeaseExpiry(catalog, ALL_KINDS, lease_s=settings.lease_seconds)
        self._demand = ActorDemand(settings, catalog, KINDS)
        self._warm = WarmActors()
        for kind, state in itertools.product(ALL_KINDS, JobState):
            if state.terminal:
                self._meters.begin(JOB_SECONDS, kind=kind.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. Raises the error of a slot that failed, once the others have stopped."""
        host, interval_s = self._settings.metrics_host, self._settings.lease_seconds / 4
        with (
            announced(self._meters, self._catalog, host, interval_s=interval_s, outages=self._outages),
            WorkWaker(self._catalog, self._settings.poll_seconds) as waker,
        ):
            with ThreadPoolExecutor(self._settings.worker_actors + 4, thread_name_prefix="slot") as pool:
                slots = [pool.submit(self._slot(i, stopping, waker).run) for i in range(self._settings.worker_actors)]
                slots.append(pool.submit(self._preview_slot(stopping, waker).run))
                slots.append(pool.submit(self._coordinator(stopping, waker).run))
                slots.append(pool.submit(self._deleter(stopping, waker).run))
                slots.append(pool.submit(self._delete_listed, stopping))
                for slot in slots:
                    slot.add_done_callback(lambda _: stopping.set())
                while not stopping.is_set():
                    self._expire_leases()
                    stopping.wait(interval_s)
            self._raise_first(slots)

    def _feed(self, waker: WorkWaker, kinds: Iterable[JobKind], name: object) -> JobFeed:
        owner = f"worker-{socket.gethostname()}-{os.getpid()}-{name}"
        lease_s = self._settings.lease_seconds
        return JobFeed(self._catalog, waker, kinds, owner=owner, lease_s=lease_s, outages=self._outages)

    def _coordinator(self, stopping: threading.Event, waker: WorkWaker) -> Coordinator:
        feed = self._feed(waker, STEPS, "studies")
        return Coordinator(feed, self._settings, self._catalog, self._meters, stopping)

    def _deleter(self, stopping: threading.Event, waker: WorkWaker) -> RunDeleter:
        feed = self._feed(waker, [JobKind.DELETE], "deletions")
        return RunDeleter(feed, self._settings, self._catalog, store_from(self._settings), self._meters, stopping)

    def _slot(self, index: int, stopping: threading.Event, waker: WorkWaker) -> ActorSlot:
        feed = self._feed(waker, KINDS, index)
        return ActorSlot(feed, self._settings, self._catalog, self._meters, self._demand, self._warm, stopping)

    def _preview_slot(self, stopping: threading.Event, waker: WorkWaker) -> PreviewSlot:
        feed = self._feed(waker, [JobKind.PREVIEW], "previews")
        return PreviewSlot(feed, self._settings, self._catalog, self._meters, self._warm, stopping)

    def _delete_listed(self, stopping: threading.Event) -> None:
        """Delete the objects that the catalog lists for deletion, until `stopping` is set."""
        store = store_from(self._settings)
        next_expiry = time.monotonic()
        while not stopping.is_set():
            try:
                if time.monotonic() >= next_expiry and not self._expire_parts():
                    next_expiry = time.monotonic() + EXPIRY_SECONDS
                deleted = delete_listed(self._catalog, store, stopping=stopping)
                if deleted:
                    log.info("deleted %d objects that no row names", deleted)
            except CatalogUnreachable as error:
                self._outages.missed(error)
            except SnapshotError as error:
                log.warning("objects that no row names are deleted later: %s", error)
            stopping.wait(DELETION_SECONDS)

    def _expire_parts(self) -> bool:
        """List stored features of old evaluations for deletion. Their figures stay. False if there were none."""
        with self._catalog.transaction(read_only=True) as tx:  # writers of SQLite exclude each other
            if not tx.sample_parts.any_older(self._settings.parts_kept_days * DAY_SECONDS):
                return False
        with self._catalog.transaction() as tx:
            keys = tx.sample_parts.expire(self._settings.parts_kept_days * DAY_SECONDS)
            tx.deletions.release(keys)
        log.info("the features of %d parts of old evaluations are removed", len(keys))
        return bool(keys)

    def _expire_leases(self) -> None:
        """Queue the jobs of workers that no longer send heartbeats again."""
        try:
            expired = self._expiry.expire()
        except CatalogUnreachable as error:
            self._outages.missed(error)
            return
        for job in expired:
            with log_fields(**job.ids):
                log.warning("a lease ran out; the job is %s", job.state)

    def _raise_first(self, slots: list[Future[None]]) -> None:
        for slot in slots:
            slot.result()
