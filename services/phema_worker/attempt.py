"""One attempt at a job: holds its lease while the actor works, then writes how it ended."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from phema.services.phema_worker.evaluation.tasks import Prepared, PrepareTask
from phema.services.phema_worker.job_tasks import complete_job, list_unnamed, next_task
from phema.services.phema_worker.task_outcomes import Failed, Outcome, Stopped
from phema.services.phema_worker.tasks import PreviewTask, Task
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobKind, JobState, LeaseLost, Transaction
from phema.shared.catalog.repositories.deletions import CLAIM_SECONDS
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder
from phema.shared.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
"""How soon a cancel, a lost lease and the end of the process are noticed while an actor works."""
_PREVIEW_HEARTBEAT_SECONDS = 0.25
_STATUS_SECONDS = 1.0
"""Time an actor has to answer how far it is."""
_LIST_SECONDS = 1.0
"""Interval at which objects are listed again that were being deleted."""
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
        self._lease = self._new_lease()

    def perform(self, actor: Any, task: Task) -> Outcome:
        """Let `actor` do the task, with heartbeats, until it answers. A cancel, a lost lease and the end of this
        process make it stop early.

        Raises Unresponsive, and RayError when the actor dies.
        """
        self._working = actor, task
        method = actor.preview if isinstance(task, PreviewTask) else actor.perform
        answer = method.remote(task, self._hold_seconds, self.job.ids)
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

    def next_task(self, task: PrepareTask, prepared: Prepared) -> Task | None:
        """The task that follows the preparation of an evaluation; None when the job waits in the queue for its parts.

        Raises LeaseLost, ImpossibleJob, BeingDeleted; CatalogUnreachable when the process stops.
        """
        following = self._lease.end(lambda tx: next_task(tx, self.job, task, prepared))
        self._lease = self._new_lease()
        return following

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
        """List what the attempt may have written. What is being deleted now is listed once its deletion has ended."""
        deadline = time.monotonic() + CLAIM_SECONDS + _LIST_SECONDS
        while True:
            try:
                with self._catalog.transaction() as tx:
                    left = list_unnamed(tx, self.job, task)
            except CatalogUnreachable as error:
                log.warning("objects that no row names may be left behind: %s", error)
                return
            if not left:
                return
            if time.monotonic() > deadline or self._stopping.wait(_LIST_SECONDS):
                log.warning("objects that no row names may be left behind: %s", ", ".join(left))
                return

    def _new_lease(self) -> LeaseHolder:
        return LeaseHolder(
            self._catalog,
            self.job.id,
            self.job.fence,
            interval_s=self._heartbeat_seconds,
            lease_s=self._settings.lease_seconds,
            retry_s=self._settings.heartbeat_seconds,
            progress=self._progress,
            on_beat=self._extend_hold,
            stopping=self._stopping,
        )

    @property
    def _heartbeat_seconds(self) -> float:
        """A heartbeat also sees a cancel. Somebody who cancels a preview waits for the next one."""
        usual = self._settings.heartbeat_seconds
        return min(usual, _PREVIEW_HEARTBEAT_SECONDS) if self.job.kind is JobKind.PREVIEW else usual

    @property
    def _should_stop(self) -> bool:
        return self._lease.lost or self._lease.stop_requested or self._stopping.is_set()

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
            return tx.leases.fail(job.id, fence, outcome.error, retry=outcome.retry, cause=outcome.cause)
        if isinstance(outcome, Stopped):
            # A cancel may have been withdrawn since the lease saw it: somebody else has asked for the same.
            wanted = not tx.leases.assert_fence(job.id, fence).cancel_requested
            end = tx.leases.release if wanted else tx.leases.cancelled
            return end(job.id, fence).state
        return complete_job(tx, job, task, outcome).state
