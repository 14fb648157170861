"""A thread of a worker that claims jobs and does them itself, without an actor."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobState, LeaseLost, Transaction
from phema.shared.service_runtime.job_feed import JobFeed
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, log_fields
from phema.shared.telemetry.metrics import JOB_SECONDS

End = Callable[[Transaction], JobState]
"""The write that ends an attempt."""
log = logging.getLogger(__name__)


class LeasedWork:
    """Base of these threads. Claims one job after another until `stopping` is set. One thread calls `run`."""

    def __init__(
        self, feed: JobFeed, settings: Settings, catalog: Catalog, meters: Meters, stopping: threading.Event
    ) -> None:
        self._feed, self._settings, self._catalog = feed, settings, catalog
        self._meters, self._stopping = meters, stopping

    def _perform(self, job: Job, lease: LeaseHolder) -> End:
        """Do the work of the attempt. Returns the write that ends it. Raises LeaseLost and CatalogUnreachable."""
        raise NotImplementedError

    def run(self) -> None:
        """Raises only errors that a restart of the process may cure; a failed job raises nothing."""
        while not self._stopping.is_set():
            job = self._feed.next(self._stopping)
            if job is None:
                continue
            with log_fields(**job.ids):
                started = time.monotonic()
                state = self._work(job)
                if state is not None and state.terminal:
                    log.info("the %s is %s", job.kind, state)
                    seconds = time.monotonic() - started
                    self._meters.observe(JOB_SECONDS, seconds, kind=str(job.kind), state=str(state))

    def _work(self, job: Job) -> JobState | None:
        """Work on the job. Returns its new state; None when another attempt has it, or will have it."""
        lease = LeaseHolder(
            self._catalog,
            job.id,
            job.fence,
            interval_s=self._settings.heartbeat_seconds,
            lease_s=self._settings.lease_seconds,
            retry_s=self._settings.heartbeat_seconds,
            progress=JobProgress,
            stopping=self._stopping,
        )
        try:
            with lease:
                return lease.end(self._attempted(job, lease))
        except LeaseLost as error:
            log.warning("%s", error)
        except CatalogUnreachable:
            pass  # logged; the process stops, and the lease will expire
        return None

    def _attempted(self, job: Job, lease: LeaseHolder) -> End:
        fence = job.fence
        try:
            return self._perform(job, lease)
        except LeaseLost:
            raise
        except CatalogUnreachable as error:
            log.warning("the step is repeated: %s", error)
            return lambda tx: tx.leases.release(job.id, fence).state
        except Exception as error:
            # A bug in phema: `max_attempts` bounds how often the work is repeated.
            log.exception("the step failed")
            unexpected = f"unexpected {type(error).__name__}: {error}"
            return lambda tx: tx.leases.fail(job.id, fence, unexpected, retry=True)
