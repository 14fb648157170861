"""The worker process: its slots, its metrics, and what it owes the queue while it lives."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from phema.services.phema_worker.actor_slot import KINDS, Slot
from phema.shared.catalog import Catalog, CatalogUnreachable, JobState
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields, serve_metrics
from phema.shared.telemetry.metrics import JOB_SECONDS

log = logging.getLogger(__name__)


class Worker:
    """`settings.worker_actors` slots in one process that is connected to Ray."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._meters = Meters("worker")
        for kind, state in itertools.product(KINDS, JobState):
            if state.terminal:
                self._meters.begin(JOB_SECONDS, kind=kind.value, state=state.value)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. Raises what made a slot give up, after the others have handed back."""
        address, stop_serving = serve_metrics(self._meters.registry, self._settings.metrics_host)
        log.info("worker started", extra={"address": address})
        try:
            with ThreadPoolExecutor(self._settings.worker_actors, thread_name_prefix="slot") as pool:
                slots = [pool.submit(self._slot(i, stopping).run) for i in range(self._settings.worker_actors)]
                for slot in slots:
                    slot.add_done_callback(lambda _: stopping.set())
                self._keep_house(address, stopping)
            self._raise_first(slots)
        finally:
            stop_serving()
            self._if_reachable(lambda: self._forget(address))

    def _slot(self, index: int, stopping: threading.Event) -> Slot:
        owner = f"worker-{socket.gethostname()}-{os.getpid()}-{index}"
        return Slot(owner, self._settings, self._catalog, self._meters, stopping)

    def _keep_house(self, address: str, stopping: threading.Event) -> None:
        """Announce the metrics, and hand on the jobs of workers that fell silent."""
        while not stopping.is_set():
            self._if_reachable(lambda: self._announce(address))
            self._if_reachable(self._expire)
            stopping.wait(self._settings.heartbeat_seconds)

    def _announce(self, address: str) -> None:
        with self._catalog.transaction() as tx:
            if not tx.scrape_targets.touch(address):
                tx.scrape_targets.register("worker", address)

    def _forget(self, address: str) -> None:
        with self._catalog.transaction() as tx:
            tx.scrape_targets.remove(address)

    def _expire(self) -> None:
        with self._catalog.transaction() as tx:
            expired = tx.leases.expire(KINDS)
        for job in expired:
            with log_fields(**job.ids):
                log.warning("a lease ran out; the job is %s", job.state)

    def _if_reachable(self, action: Callable[[], None]) -> None:
        try:
            action()
        except CatalogUnreachable as error:
            log.warning("%s", error)

    def _raise_first(self, slots: list[Future[None]]) -> None:
        for slot in slots:
            slot.result()
