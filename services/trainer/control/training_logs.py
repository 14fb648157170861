"""One reading of a training's log from Ray serves the store and the trainer's own log.

Drivers and workers write into files of Ray, which `docker logs` and `kubectl logs` do not show. The trainer writes
their new lines to its own standard error: JSON lines as they are, other lines, such as Ray's own, as messages. The
store keeps the log where it outlives Ray and the machine, and where the API reads it: the API knows no Ray.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import IO

from phema.shared.catalog import Job, submission_id
from phema.shared.service_runtime.attempt_logs import AttemptLog
from phema.shared.snapshots import ObjectStore, SnapshotError

_log = logging.getLogger(__name__)


class TrainingLog:
    """The log of one attempt. Not thread-safe.

    A trainer that takes over a running attempt begins with the lines that no trainer has stored yet. If the store is
    away then, it repeats lines.
    """

    def __init__(self, store: ObjectStore, job: Job, stream: IO[str]) -> None:
        """`stream` receives the lines."""
        self._stored = AttemptLog(store, str(job.run_id), submission_id(job.id, job.fence))
        self._fence, self._stream = job.fence, stream
        self._written: int | None = None
        """Bytes of the log whose lines `stream` has."""

    def copy(self, log: bytes) -> None:
        """Take over what is new in `log`, all that the attempt has written so far. What the store does not take now,
        the next call stores."""
        self._write_lines(log[self._begin() : log.rfind(b"\n") + 1])
        try:
            self._stored.write(log)
        except SnapshotError as error:
            _log.debug("the log of attempt %d is not stored yet: %s", self._fence, error)

    def complete(self, log: bytes) -> None:
        """Take over the whole log of an attempt that has ended. What the store does not take is given up."""
        self._write_lines(log[self._begin() :])
        try:
            self._stored.complete(log)
        except SnapshotError as error:
            _log.warning("the log of attempt %d is not kept: %s", self._fence, error)

    def _begin(self) -> int:
        if self._written is None:
            self._written = 0  # if the store is away, lines are repeated rather than left out
            with suppress(SnapshotError):
                self._written = self._stored.stored_bytes()
        return self._written

    def _write_lines(self, data: bytes) -> None:
        """Nothing is stored before it is written, so the lines of a trainer that dies here are written again."""
        self._written = (self._written or 0) + len(data)
        for line in data.decode(errors="replace").split("\n"):
            if line.startswith("{"):
                self._stream.write(f"{line}\n")
            elif line.strip():
                _log.info("%s", line)
        self._stream.flush()
