"""The trainer's log holds the lines of its trainings, and how each attempt ended.

Drivers and workers write into files of Ray, which `docker logs` and `kubectl logs` do not show. The trainer reads the
ends of these files through Ray's API and writes new lines to its own standard error. JSON lines are copied; other
lines, such as Ray's own, become messages. When the trainer restarts, lines of the meantime are left out. The whole log
of an attempt is in the store (`ended_attempts`).
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import IO, Self

from phema.services.trainer.control.ray_jobs import RayJobs, RayUnavailable
from phema.shared.catalog import AttemptOutcome, Catalog, CatalogUnreachable, Job, submission_id
from phema.shared.telemetry import log_fields

POLL_SECONDS = 2.0
LINES = 1000
"""Lines that are read at a time. Of more new lines than that, the oldest are left out."""
ANCHOR = 5
"""So many lines are looked for to find where the last reading ended: lines of other programs may be repeated."""
_log = logging.getLogger(__name__)


class TrainingLogs:
    """Context manager with a thread of its own, because Ray may be slow to answer."""

    def __init__(self, ray_jobs: RayJobs, catalog: Catalog, stream: IO[str] | None = None) -> None:
        """`stream` receives the lines; by default standard error, as the trainer's own."""
        self._ray, self._catalog, self._stream = ray_jobs, catalog, stream or sys.stderr
        self._running: dict[str, Job] | None = None
        self._ended: dict[str, Job] = {}
        self._anchors: dict[str, list[str] | None] = {}
        """By submission id, the last lines that were read. None: what is there already is not written."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="training-logs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(POLL_SECONDS)

    def watch(self, running: Iterable[Job]) -> None:
        """Tell which attempts run now. Returns at once. Of those of the first call, earlier lines are not written."""
        now = {submission_id(job.id, job.fence): job for job in running}
        with self._lock:
            if self._running is None:
                self._anchors = dict.fromkeys(now)
            else:
                self._ended |= {name: job for name, job in self._running.items() if name not in now}
            self._running = now

    def following(self, name: str) -> bool:
        """Whether the lines that an attempt writes from now on will be written."""
        return self._anchors.get(name) is not None

    def _run(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            with self._lock:
                running, ended = dict(self._running or {}), dict(self._ended)
            try:
                for name, job in (running | ended).items():
                    with log_fields(**job.ids):
                        self._write_new_lines(name)
                        if name in ended:
                            self._tell_end(job)
                            self._forget(name)
            except (CatalogUnreachable, RayUnavailable):
                continue  # the reconciler logs that

    def _write_new_lines(self, name: str) -> None:
        lines = self._ray.last_lines(name, LINES)
        anchor = self._anchors.get(name, [])
        for line in new_lines(lines, anchor) if anchor is not None else []:
            if line.startswith("{"):
                self._stream.write(f"{line}\n")
            elif line.strip():
                _log.info("%s", line)
        self._stream.flush()
        if lines or anchor is None:
            self._anchors[name] = lines[-ANCHOR:]

    def _tell_end(self, job: Job) -> None:
        with self._catalog.transaction(read_only=True) as tx:
            now = tx.jobs.get(job.id)
            (attempt,) = [one for one in tx.jobs.attempts(job.id) if one.number == job.fence]
        failed = attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.EXPIRED)
        outcome = attempt.outcome.value if attempt.outcome is not None else "still running"
        why = f": {attempt.error}" if attempt.error else ""
        level = logging.WARNING if failed else logging.INFO
        _log.log(level, "attempt %d ended (%s), the job is %s%s", job.fence, outcome, now.state.value, why)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._ended.pop(name, None)
        self._anchors.pop(name, None)


def new_lines(lines: Sequence[str], anchor: Sequence[str]) -> list[str]:
    """The lines after the last place where `anchor` is found; all lines if it is not found."""
    size = len(anchor)
    for end in range(len(lines), size - 1, -1) if size else ():
        if list(lines[end - size : end]) == list(anchor):
            return list(lines[end:])
    return list(lines)
