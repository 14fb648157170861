"""Stopping a run before its end: one worker sees the request or the notice, and all stop after the same step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogError, Job, LeaseLost

POLL_SECONDS = 2.0
"""Seconds between two reads of the job's row, and between two progress messages of a cancelled run."""
AGREE_SECONDS = 1.0
"""Several workers agree on stopping about this often."""
MOST_STEPS = 64
"""Steps after which several workers agree at the latest. Agreeing makes a GPU's worker wait for its device."""
LONGEST_STEP_SECONDS = 600.0
"""A step that takes longer is assumed to hang: the run stops sending progress messages, and the trainer ends it."""
LONGEST_STORE_SECONDS = 3600.0
"""The same for storing what is pending and the last checkpoint, which may be 60 GB."""
STOP = 0
"""Instead of a number of steps: all workers stop now. It is the smallest answer."""
_log = logging.getLogger(__name__)


class Cancellation:
    """Polls the catalog for a request to cancel or to pause, in a thread of the first worker.

    After a request the thread writes the job's message every `POLL_SECONDS` with what the run still does, because the
    trainer ends runs that should stop and whose message does not change. Messages are sent for up to
    `LONGEST_STEP_SECONDS` of the step in progress, and for up to `LONGEST_STORE_SECONDS` while the checkpoint after it
    is stored. Entering the `with` block reads the job once. If the catalog is unreachable, the next poll tries again.

    A worker whose process or machine ends soon (`notice`) stops the others in the same way.
    """

    def __init__(
        self, attempt: TrainingAttempt, catalog: Catalog, group: WorkerGroup, notice: EndNotice | None = None
    ) -> None:
        self._notice = notice or EndNotice()
        self._attempt, self._catalog, self._group = attempt, catalog, group
        self._requested, self._stopping = threading.Event(), threading.Event()
        self._requested_at = self._stopping_at = 0.0
        self._doing = "cancelling"
        self._on_request: Callable[[], object] = lambda: None
        self._steps_per_round = self._steps_left = 1
        self._agreed_at = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cancellation", daemon=True)

    def __enter__(self) -> Self:
        if self._group.is_first:
            self._poll()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._group.is_first:
            self._thread.join()

    def on_request(self, call: Callable[[], object]) -> None:
        """Call `call` when a stop is requested, in the thread that sees the request; at once if one was seen.

        It may be called twice.
        """
        self._on_request = call
        if self._requested.is_set():
            call()

    @property
    def stopped_by_notice(self) -> bool:
        """Whether the run stops because a process of the group ends soon, without a request in the catalog."""
        return self._stopping.is_set() and not self._requested.is_set()

    def stop_now(self) -> bool:
        """Whether the run stops after this step; the same on all workers. Every worker must call it after each step."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return False
        ends = self._notice.look() or self._requested.is_set()
        self._steps_per_round = self._steps_left = self._group.minimum(STOP if ends else self._next_steps())
        self._agreed_at = time.monotonic()
        if self._steps_left == STOP and not self._stopping.is_set():
            self._stopping_at = time.monotonic()
            self._stopping.set()
        return self._stopping.is_set()

    def _next_steps(self) -> int:
        """Steps until the workers agree again, estimated from the duration of the last ones; 1 for a single worker."""
        if self._group.world_size == 1:
            return 1
        step = max(time.monotonic() - self._agreed_at, 1e-9) / self._steps_per_round
        return min(max(int(AGREE_SECONDS / step), 1), MOST_STEPS)

    def _watch(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            try:
                self._poll()
            except LeaseLost as error:
                _log.warning("%s", error)
                return

    def _poll(self) -> None:
        """Read the request, or report what a run that stops still does. Raises LeaseLost."""
        try:
            if not self._requested.is_set():
                self._read_request()
            if self._requested.is_set():
                self._report()
        except LeaseLost:
            raise
        except CatalogError as error:
            _log.warning("cannot read whether the run is cancelled or paused: %s", error)

    def _read_request(self) -> None:
        with self._catalog.transaction(read_only=True) as tx:
            job = tx.jobs.get(self._attempt.job_id)
        stop = job.cancel_requested or job.pause_requested or job.release_requested
        if stop and job.fence == self._attempt.fence:
            self._doing = _doing(job)
            _log.info("%s: the run stops after this step", self._doing)
            self._requested_at = time.monotonic()
            self._requested.set()
            self._on_request()

    def _report(self) -> None:
        now = time.monotonic()
        seconds = now - self._requested_at
        if self._stopping.is_set():
            what, going_on = "storing a checkpoint", now - self._stopping_at <= LONGEST_STORE_SECONDS
        else:
            what, going_on = "the step in progress ends first", seconds <= LONGEST_STEP_SECONDS
        if not going_on:
            return
        with self._catalog.transaction() as tx:
            tx.leases.report(self._attempt.job_id, self._attempt.fence, f"{self._doing} for {seconds:.1f} s: {what}")


def _doing(job: Job) -> str:
    if job.cancel_requested:
        return "cancelling"
    return "pausing" if job.pause_requested else "handing the run back"
