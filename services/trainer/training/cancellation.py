"""Cancelling a run: the first worker sees the request, and all workers stop after the same step."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogError, LeaseLost

POLL_SECONDS = 2.0
"""Seconds between two reads of the job's row, and between two progress messages of a cancelled run."""
AGREE_SECONDS = 1.0
"""Several workers agree on stopping about this often."""
MOST_STEPS = 64
"""Steps after which several workers agree at the latest. Agreeing makes a GPU's worker wait for its device."""
LONGEST_STEP_SECONDS = 600.0
"""A step that takes longer is assumed to hang: the run stops sending progress messages, and the trainer ends it."""
STOP = 0
"""Broadcast instead of a number of steps: all workers stop now."""
_log = logging.getLogger(__name__)


class Cancellation:
    """Polls the catalog for a cancel request, in a thread of the first worker.

    After a request the thread writes the job's message every `POLL_SECONDS` with what the run still does, because the
    trainer ends cancelled runs whose message does not change. Messages are sent for up to `LONGEST_STEP_SECONDS` of
    the step in progress, and while the checkpoint after it is stored (uploads stop by themselves after their last
    retry). Entering the `with` block reads the job once. If the catalog is unreachable, the next poll tries again.
    """

    def __init__(self, attempt: TrainingAttempt, catalog: Catalog, group: WorkerGroup) -> None:
        self._attempt, self._catalog, self._group = attempt, catalog, group
        self._requested, self._stopping = threading.Event(), threading.Event()
        self._requested_at = 0.0
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

    def stop_now(self) -> bool:
        """Whether the run stops after this step; the same on all workers. Every worker must call it after each step."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return False
        answer = STOP if self._requested.is_set() else self._next_steps()
        self._steps_per_round = self._steps_left = self._group.broadcast_from_first(answer)
        self._agreed_at = time.monotonic()
        if self._steps_left == STOP:
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
        """Read the request, or report what a cancelled run still does. Raises LeaseLost."""
        try:
            if not self._requested.is_set():
                self._read_request()
            if self._requested.is_set():
                self._report()
        except LeaseLost:
            raise
        except CatalogError as error:
            _log.warning("cannot read whether the run is cancelled: %s", error)

    def _read_request(self) -> None:
        with self._catalog.transaction(read_only=True) as tx:
            job = tx.jobs.get(self._attempt.job_id)
        if job.cancel_requested and job.fence == self._attempt.fence:
            _log.info("cancel requested: the run stops after this step")
            self._requested_at = time.monotonic()
            self._requested.set()

    def _report(self) -> None:
        seconds = time.monotonic() - self._requested_at
        if self._stopping.is_set():
            what = "storing a checkpoint"
        elif seconds <= LONGEST_STEP_SECONDS:
            what = "the step in progress ends first"
        else:
            return
        with self._catalog.transaction() as tx:
            tx.leases.report(self._attempt.job_id, self._attempt.fence, f"cancelling for {seconds:.1f} s: {what}")
