"""What the trainer does beside its main loop: keep the logs of attempts, and list objects that nothing names.

The log holds the lines of the driver and of its workers. The store keeps it, where it outlives Ray and the machine, and
where the API reads it: the API knows no Ray.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from phema.services.trainer.control.ray_jobs import RayJobs, RayUnavailable
from phema.shared.catalog import Catalog, CatalogUnreachable, Job, RunDeleted, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.service_runtime.unlisted_objects import list_noted, unnamed
from phema.shared.snapshots import ObjectStore, SnapshotError
from phema.shared.telemetry import log_fields

LOG_SECONDS = 3.0
"""Time between two looks at the logs of the running attempts."""
LOG_SHARE = 20.0
"""The trainer waits so many times as long as Ray needed for the last log: Ray gives only whole logs."""
RETRY_SECONDS = 1.0
"""Pause before an attempt is looked at again that still runs on Ray, or while Ray or the catalog is away."""
CLOSE_SECONDS = 5.0
"""Time that the attempt in progress has when the trainer ends."""
_log = logging.getLogger(__name__)


class _Resumed(Exception):
    pass


class EndedAttempts:
    """Context manager with a thread of its own, because a slow store or Ray must not hold up other jobs.

    A trainer that dies keeps the logs of the attempts that run then, if the next one finds them. Two trainers may both
    keep a log; they write the same object.
    """

    def __init__(self, ray_jobs: RayJobs, catalog: Catalog, store: ObjectStore) -> None:
        self._ray, self._catalog, self._store = ray_jobs, catalog, store
        self._running: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        """By submission id: attempts that ran at an earlier call of `watch`, and did not at a later one."""
        self._logs: dict[str, AttemptLog] = {}
        """By submission id: the stored logs of the attempts that run."""
        self._logs_due = 0.0
        """The monotonic time of the next look at them."""
        self._changed = threading.Condition()
        self._closing = False
        self._warned = ""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="ended-attempts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def watch(self, running: Iterable[Job]) -> None:
        """Tell which attempts run now. Returns at once."""
        now = {submission_id(job.id, job.fence): job for job in running}
        with self._changed:
            self._ended |= {name: job for name, job in self._running.items() if name not in now}
            self._running = now
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._closing or self._running)
                pause_s = max(self._logs_due - time.monotonic(), 0.0) if self._running else 0.0
                self._changed.wait_for(lambda: self._ended or self._closing, pause_s)
                if self._closing:
                    return
                waiting, running = dict(self._ended), dict(self._running)
            finished = [name for name, job in waiting.items() if self._finished(name, job)]
            with self._changed:
                for name in finished:
                    del self._ended[name]
                if len(finished) < len(waiting):
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            if time.monotonic() >= self._logs_due:
                self._store_growing(running)

    def _store_growing(self, running: dict[str, Job]) -> None:
        """Store what running attempts have written, for those who follow their logs. The next look repeats failures."""
        began = time.monotonic()
        for name, job in running.items():
            with log_fields(**job.ids):
                log = self._logs.setdefault(name, AttemptLog(self._store, str(job.run_id), name))
                try:
                    log.write(self._ray.log(name).encode())
                except (RayUnavailable, SnapshotError) as error:
                    _log.debug("the log of attempt %d is not stored yet: %s", job.fence, error)
        self._logs = {name: log for name, log in self._logs.items() if name in running}
        now = time.monotonic()
        self._logs_due = now + max(LOG_SECONDS, LOG_SHARE * (now - began))

    def _finished(self, name: str, job: Job) -> bool:
        """Whether nothing is left to do for the attempt. What the store does not take is given up, with a warning."""
        with log_fields(**job.ids):
            try:
                known = self._ray.get(name)
                if known is not None and not known.ended:
                    return False
                if self._is_deleted(str(job.run_id)):
                    return True  # with its logs, and with what nothing names
                if known is not None:
                    self._keep_log(name, job, self._ray.log(name))
                self._list_unnamed(str(job.run_id))
            except (RayUnavailable, CatalogUnreachable) as error:
                if str(error) != self._warned:
                    _log.warning("the end of attempt %d is looked at later: %s", job.fence, error)
                self._warned = str(error)
                return False
            except SnapshotError as error:
                _log.warning("objects of attempt %d that nothing names may be left: %s", job.fence, error)
            return True

    def _is_deleted(self, run_id: str) -> bool:
        with self._catalog.transaction(read_only=True) as tx:
            return tx.run_deletions.is_removed(run_id)

    def _keep_log(self, name: str, job: Job, text: str) -> None:
        try:
            AttemptLog(self._store, str(job.run_id), name).complete(text.encode())
        except SnapshotError as error:
            _log.warning("the log of attempt %d is not kept: %s", job.fence, error)

    def _list_unnamed(self, run_id: str) -> None:
        """List the unnamed objects of a run whose job has ended. While it has not, its next attempt does so."""
        with self._catalog.transaction(read_only=True) as tx:
            ended = tx.runs.get(run_id).job.state.terminal
        if ended:
            with suppress(_Resumed, RunDeleted):
                list_noted(self._store, run_id, lambda keys: self._release(run_id, keys))

    def _release(self, run_id: str, keys: list[str]) -> None:
        """Raises _Resumed when the run has a new job, whose attempts take care of its objects."""
        with self._catalog.transaction() as tx:
            tx.runs.lock(run_id)  # nobody resumes it meanwhile
            if not tx.runs.get(run_id).job.state.terminal:
                raise _Resumed
            tx.deletions.release(unnamed(tx, run_id, keys))
