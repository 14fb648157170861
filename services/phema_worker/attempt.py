"""One attempt at a job: holds its lease while the actor works, then writes how it ended."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from phema.services.phema_worker.job_tasks import complete_job, list_unnamed
from phema.services.phema_worker.tasks import Failed, Outcome, Stopped, Task
from phema.shared.catalog import BeingDeleted, Catalog, CatalogUnreachable, Job, JobState, LeaseLost, Transaction
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder
from phema.shared.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
"""How soon a cancel, a lost lease and the end of the process are noticed while an actor works."""
_STATUS_SECONDS = 1.0
"""Time an actor has to answer how far it is."""
STOP_SECONDS = 10.0
"""Time an actor has to stop: it first finishes the current chunk or network evaluation."""


class Unresponsive(Exception):
    """The actor did not stop in time; it has to be killed."""


class Attempt:
    """A job that one actor slot has claimed."""

    def __init__(self, job: Job, settings: Settings, catalog: Catalog, stopping: threading.Event) -> None:
        self.job = job
        self._settings = settings
        self._catalog = catalog
        self._stopping = stopping
        self._working: tuple[Any, Task] | None = None
        self._lease = LeaseHolder(
            catalog,
            job.id,
            job.fence,
            interval_s=settings.heartbeat_seconds,
            lease_s=settings.lease_seconds,
            retry_s=settings.heartbeat_seconds,
            progress=self._progress,
            on_beat=self._extend_hold,
            stopping=stopping,
        )

    def perform(self, actor: Any, task: Task) -> Outcome:
        """Let `actor` do the task, with heartbeats, until it answers. A cancel, a lost lease and the end of this
        process make it stop early.

        Raises Unresponsive, and RayError when the actor dies.
        """
        self._working = actor, task
        answer = actor.perform.remote(task, self._hold_seconds, self.job.ids)
        deadline: float | None = None
        with self._lease:
            while not ray.wait([answer], timeout=_POLL_SECONDS)[0]:
                if deadline is None and self._should_stop:
                    actor.cancel.remote(task.token)
                    deadline = time.monotonic() + STOP_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    raise Unresponsive
        outcome: Outcome = ray.get(answer)
        return outcome

    def conclude(self, task: Task | None, outcome: Outcome | None) -> JobState | None:
        """Write how the attempt ended. While the catalog cannot be reached, try again until the process stops:
        finished work is not thrown away for that.

        `task` None: nothing was left to do. Returns the job's new state; None when another attempt has the job or will
        have it.
        """
        try:
            return self._lease.end(lambda tx: self._write(tx, task, outcome))
        except LeaseLost as error:
            log.warning("%s", error)
            if task is not None:
                self._list_unnamed(task)
        except CatalogUnreachable:
            pass  # logged; the process stops, and the lease will expire
        return None

    def _list_unnamed(self, task: Task) -> None:
        try:
            with self._catalog.transaction() as tx:
                list_unnamed(tx, self.job, task)
        except (CatalogUnreachable, BeingDeleted) as error:
            log.warning("objects that no row names may be left behind: %s", error)

    @property
    def _should_stop(self) -> bool:
        return self._lease.lost or self._lease.cancel_requested or self._stopping.is_set()

    @property
    def _hold_seconds(self) -> float:
        """Half of the lease: the other half is for late messages and for a deletion that has begun."""
        return self._settings.lease_seconds / 2

    def _extend_hold(self) -> None:
        if self._working is not None:
            actor, task = self._working
            actor.hold.remote(task.token, self._hold_seconds)

    def _progress(self) -> JobProgress:
        if self._working is None:
            return JobProgress()
        actor, task = self._working
        try:
            return JobProgress(*ray.get(actor.status.remote(task.token), timeout=_STATUS_SECONDS))
        except (GetTimeoutError, RayError):
            # The actor is busy or dead. If it is dead, `perform` raises the error.
            return JobProgress()

    def _write(self, tx: Transaction, task: Task | None, outcome: Outcome | None) -> JobState:
        job, fence = self.job, self.job.fence
        if isinstance(outcome, Failed):
            return tx.leases.fail(job.id, fence, outcome.error, retry=outcome.retry)
        if isinstance(outcome, Stopped):
            end = tx.leases.cancelled if self._lease.cancel_requested else tx.leases.release
            return end(job.id, fence).state
        return complete_job(tx, job, task, outcome).state
