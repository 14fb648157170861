"""One attempt at a job: its lease is kept while the actor works, then its end is written."""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum, auto
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from phema.services.phema_worker.job_tasks import record
from phema.services.phema_worker.tasks import Done, Failed, Outcome, Stopped, Task
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, JobState, LeaseLost, Transaction
from phema.shared.settings import Settings

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
"""How soon the end of the process is noticed while an actor works."""
_STATUS_SECONDS = 1.0
STOP_SECONDS = 10.0
"""Time an actor has to end a chunk or an evaluation of the network once it was told to stop."""


class Reason(Enum):
    """Why an actor is told to stop before its task is done."""

    CANCELLED = auto()
    SHUTDOWN = auto()
    LOST = auto()


class Unresponsive(Exception):
    """The actor did not stop in time; it has to be killed."""


class Attempt:
    """A claimed job in the hands of one slot."""

    def __init__(self, job: Job, settings: Settings, catalog: Catalog, stopping: threading.Event) -> None:
        self.job = job
        self._settings = settings
        self._catalog = catalog
        self._stopping = stopping
        self._reason: Reason | None = None

    def attend(self, actor: Any, task: Task) -> Outcome:
        """Let `actor` do the task, with heartbeats, until it answers. A cancel, a lost lease and the end of this
        process make it stop early.

        Raises Unresponsive, and RayError when the actor dies.
        """
        answer = actor.perform.remote(task, self._hold_seconds, self.job.ids)
        next_beat = time.monotonic() + self._settings.heartbeat_seconds
        deadline: float | None = None
        while not ray.wait([answer], timeout=_LOOK_SECONDS)[0]:
            if time.monotonic() >= next_beat:
                self._beat(actor, task)
                next_beat = time.monotonic() + self._settings.heartbeat_seconds
            if self._reason is None and self._stopping.is_set():
                self._reason = Reason.SHUTDOWN
            if self._reason is not None and deadline is None:
                actor.cancel.remote(task.token)
                deadline = time.monotonic() + STOP_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise Unresponsive
        outcome: Outcome = ray.get(answer)
        return outcome

    def conclude(self, actor: Any, task: Task | None, outcome: Outcome | None) -> JobState | None:
        """Write the end, repeatedly while the catalog is away: finished work is not thrown away for that.

        `task` None: nothing was left to do. Returns the job's new state, None when another attempt has it or will.
        """
        uncertain = False
        while True:
            try:
                with self._catalog.transaction() as tx:
                    return self._write(tx, task, outcome)
            except LeaseLost as error:
                log.warning("%s", error)
                # After a broken commit, the lease may be gone because this very end was written.
                # What other attempts continue may be theirs by now.
                if isinstance(outcome, Done) and task is not None and not task.continued and not uncertain:
                    actor.discard.remote(tuple(written.key for written in outcome.written), self.job.ids)
                return None
            except CatalogUnreachable as error:
                uncertain = True
                log.warning("the end of the job is not written yet: %s", error)
                if self._stopping.wait(self._settings.heartbeat_seconds):
                    return None

    @property
    def _hold_seconds(self) -> float:
        """Half of the lease: the rest is for messages that are late and for the deletion that has begun."""
        return self._settings.lease_seconds / 2

    def _beat(self, actor: Any, task: Task) -> None:
        progress, message = self._status(actor, task)
        try:
            with self._catalog.transaction() as tx:
                cancel_requested = tx.leases.heartbeat(
                    self.job.id,
                    self.job.fence,
                    lease_seconds=self._settings.lease_seconds,
                    progress=progress,
                    message=message,
                )
        except LeaseLost:
            self._reason = Reason.LOST
        except CatalogUnreachable as error:
            # Work goes on: the lease outlives some missed heartbeats, and whether it was lost shows at the end.
            log.warning("heartbeat missed: %s", error)
        else:
            if cancel_requested:
                self._reason = Reason.CANCELLED
            actor.hold.remote(task.token, self._hold_seconds)

    def _status(self, actor: Any, task: Task) -> tuple[float | None, str | None]:
        try:
            progress, message = ray.get(actor.status.remote(task.token), timeout=_STATUS_SECONDS)
        except (GetTimeoutError, RayError):
            # Busy, or dead: then the task itself answers so.
            return None, None
        return progress, message

    def _write(self, tx: Transaction, task: Task | None, outcome: Outcome | None) -> JobState:
        job, fence = self.job, self.job.fence
        if isinstance(outcome, Failed):
            return tx.leases.fail(job.id, fence, outcome.error, retry=outcome.retry)
        if isinstance(outcome, Stopped):
            end = tx.leases.cancelled if self._reason is Reason.CANCELLED else tx.leases.release
            return end(job.id, fence).state
        return record(tx, job, task, outcome).state
