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
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry.metrics import JOB_SECONDS

log = logging.getLogger(__name__)


class Worker:
    """`settings.worker_actors` actor slots in one process that is connected to Ray. One actor is always there; the
    others are started for jobs that are due."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._meters = Meters("worker")
        self._demand = ActorDemand(settings, catalog, KINDS)
        for kind, state in itertools.product(KINDS, JobState):
            if state.terminal:
                self._meters.begin(JOB_SECONDS, kind=kind.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. Raises the error of a slot that failed, once the others have stopped."""
        host, interval_s = self._settings.metrics_host, self._settings.heartbeat_seconds
        with announced(self._meters, self._catalog, host, interval_s=interval_s):
            with ThreadPoolExecutor(self._settings.worker_actors, thread_name_prefix="slot") as pool:
                slots = [pool.submit(self._slot(i, stopping).run) for i in range(self._settings.worker_actors)]
                for slot in slots:
                    slot.add_done_callback(lambda _: stopping.set())
                while not stopping.is_set():
                    self._expire_leases()
                    stopping.wait(interval_s)
            self._raise_first(slots)

    def _slot(self, index: int, stopping: threading.Event) -> ActorSlot:
        owner = f"worker-{socket.gethostname()}-{os.getpid()}-{index}"
        return ActorSlot(owner, self._settings, self._catalog, self._meters, self._demand, stopping)

    def _expire_leases(self) -> None:
        """Queue the jobs of workers that no longer send heartbeats again."""
        try:
            with self._catalog.transaction() as tx:
                expired = tx.leases.expire(KINDS)
        except CatalogUnreachable as error:
            log.warning("%s", error)
            return
        for job in expired:
            with log_fields(**job.ids):
                log.warning("a lease ran out; the job is %s", job.state)

    def _raise_first(self, slots: list[Future[None]]) -> None:
        for slot in slots:
            slot.result()
