"""What the trainer does beside its main loop: take over the logs of attempts, tell how each ended, and list the objects
that nothing names.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

from phema.services.trainer.control.ray_jobs import RayJobs, RayUnavailable
from phema.services.trainer.control.training_logs import TrainingLog
from phema.shared.catalog import AttemptOutcome, Catalog, CatalogUnreachable, Job, RunDeleted, submission_id
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


class AttemptFollower:
    """Context manager with a thread of its own, because a slow store or Ray must not hold up other jobs.

    A trainer that dies keeps the logs of the attempts that run then, if the next one finds them. Two trainers may both
    keep a log; they write the same object.
    """

    def __init__(self, ray_jobs: RayJobs, catalog: Catalog, store: ObjectStore, stream: IO[str] | None = None) -> None:
        """`stream` receives the lines of the trainings; by default standard error, as the trainer's own."""
        self._ray, self._catalog, self._store, self._stream = ray_jobs, catalog, store, stream or sys.stderr
        self._running: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        """By submission id: attempts that ran at an earlier call of `watch`, and did not at a later one."""
        self._logs: dict[str, TrainingLog] = {}
        """By submission id: the logs of the attempts that run or have just ended."""
        self._logs_due = 0.0
        """The monotonic time of the next look at them."""
        self._changed = threading.Condition()
        self._closing = False
        self._warned = ""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="attempts", daemon=True)

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
                    self._logs.pop(name, None)
                if len(finished) < len(waiting):
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            if time.monotonic() >= self._logs_due:
                self._copy_logs(running)

    def _copy_logs(self, running: dict[str, Job]) -> None:
        """Take over what running attempts have written. The next look repeats failures."""
        began = time.monotonic()
        for name, job in running.items():
            with log_fields(**job.ids):
                try:
                    self._log_of(name, job).copy(self._ray.log(name).encode())
                except RayUnavailable as error:
                    _log.debug("the log of attempt %d is read later: %s", job.fence, error)
        now = time.monotonic()
        self._logs_due = now + max(LOG_SECONDS, LOG_SHARE * (now - began))

    def _log_of(self, name: str, job: Job) -> TrainingLog:
        if name not in self._logs:
            self._logs[name] = TrainingLog(self._store, job, self._stream)
        return self._logs[name]

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
                    self._log_of(name, job).complete(self._ray.log(name).encode())
                self._tell_end(job)
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

    def _tell_end(self, job: Job) -> None:
        with self._catalog.transaction(read_only=True) as tx:
            now = tx.jobs.get(job.id)
            (attempt,) = [one for one in tx.jobs.attempts(job.id) if one.number == job.fence]
        failed = attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.EXPIRED)
        outcome = attempt.outcome.value if attempt.outcome is not None else "still running"
        why = f": {attempt.error}" if attempt.error else ""
        level = logging.WARNING if failed else logging.INFO
        _log.log(level, "attempt %d ended (%s), the job is %s%s", job.fence, outcome, now.state.value, why)

    def _list_unnamed(self, run_id: str) -> None:
        """List the unnamed objects of a run whose job has ended. While it has not, its next attempt does so."""
        with suppress(_Resumed, RunDeleted):
            with self._catalog.transaction(read_only=True) as tx:
                ended = tx.runs.get(run_id).job.state.terminal
            if ended:
                list_noted(self._store, run_id, lambda keys: self._release(run_id, keys))

    def _release(self, run_id: str, keys: list[str]) -> None:
        """Raises _Resumed when the run has a new job, whose attempts take care of its objects."""
        with self._catalog.transaction() as tx:
            tx.runs.lock(run_id)  # nobody resumes it meanwhile
            if not tx.runs.get(run_id).job.state.terminal:
                raise _Resumed
            tx.deletions.release(unnamed(tx, run_id, keys))
