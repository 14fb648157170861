"""A user's cancel: seen by the run's first worker, obeyed by all of them after the same step."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

from phema.services.trainer.control.attempt import Attempt
from phema.services.trainer.training.worker_group import Group
from phema.shared.catalog import Catalog, CatalogError, LeaseLost

POLL_SECONDS = 2.0
"""Between two looks at the catalog; a cancelled run says as often that it obeys."""
AGREE_SECONDS = 1.0
MOST_STEPS = 64
"""Several workers agree about once a second and at least every so many steps: on a GPU that waits for the device."""
LONGEST_STEP_SECONDS = 600.0
"""A step that takes longer is taken for one that hangs: the run no longer says that it obeys."""
STOP = 0
_log = logging.getLogger(__name__)


class Cancel:
    """Watches for a cancel from a thread of its own, in the first worker alone.

    From then on the job's message says every `POLL_SECONDS` what the run still does, so that the trainer, which ends
    cancelled runs that fall silent, leaves it the time: `LONGEST_STEP_SECONDS` for the step in progress, and what it
    takes to store the checkpoint after it (uploads give up by themselves). The catalog is asked once on entering the
    block; one that is away is asked again.
    """

    def __init__(self, attempt: Attempt, catalog: Catalog, group: Group) -> None:
        self._attempt, self._catalog, self._group = attempt, catalog, group
        self._requested, self._leaving = threading.Event(), threading.Event()
        self._requested_at = 0.0
        self._steps = self._left = 1
        self._agreed_at = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cancel", daemon=True)

    def __enter__(self) -> Self:
        if self._group.is_first:
            self._look()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._group.is_first:
            self._thread.join()

    def obeyed(self) -> bool:
        """Every worker calls it after each step: whether the run stops here. The answer is the same on all of them."""
        self._left -= 1
        if self._left > 0:
            return False
        answer = STOP if self._requested.is_set() else self._next_steps()
        self._steps = self._left = self._group.first_says(answer)
        self._agreed_at = time.monotonic()
        if self._left == STOP:
            self._leaving.set()
        return self._leaving.is_set()

    def _next_steps(self) -> int:
        """Steps until the workers agree again, from the time that the last ones took. One worker has itself to ask."""
        if self._group.world_size == 1:
            return 1
        step = max(time.monotonic() - self._agreed_at, 1e-9) / self._steps
        return min(max(int(AGREE_SECONDS / step), 1), MOST_STEPS)

    def _watch(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            try:
                self._look()
            except LeaseLost as error:
                _log.warning("%s", error)
                return

    def _look(self) -> None:
        """Raises LeaseLost when the job of a cancelled run is no longer this attempt's."""
        try:
            if not self._requested.is_set():
                self._ask()
            if self._requested.is_set():
                self._report()
        except LeaseLost:
            raise
        except CatalogError as error:
            _log.warning("whether the run is cancelled is not known: %s", error)

    def _ask(self) -> None:
        with self._catalog.transaction(read_only=True) as tx:
            job = tx.jobs.get(self._attempt.job_id)
        if job.cancel_requested and job.fence == self._attempt.fence:
            _log.info("a cancel was requested: the run stops after this step")
            self._requested_at = time.monotonic()
            self._requested.set()

    def _report(self) -> None:
        seconds = time.monotonic() - self._requested_at
        if self._leaving.is_set():
            what = "storing a checkpoint"
        elif seconds <= LONGEST_STEP_SECONDS:
            what = "the step in progress ends first"
        else:
            return
        with self._catalog.transaction() as tx:
            tx.leases.report(self._attempt.job_id, self._attempt.fence, f"cancelling for {seconds:.1f} s: {what}")
