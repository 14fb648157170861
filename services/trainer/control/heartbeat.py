"""The driver's sign of life, and its end when another attempt has taken over."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from phema.services.trainer.control.attempt import Attempt
from phema.services.trainer.control.outcome import has_ended
from phema.shared.catalog import Catalog, CatalogUnreachable, JobState, LeaseLost, Transaction

EXIT_LOST = 3
"""Exit code of a driver that has lost its lease."""
RETRY_SECONDS = 0.5
T = TypeVar("T")
_log = logging.getLogger(__name__)


def exit_now(reason: str, code: int = EXIT_LOST) -> NoReturn:
    """End this process at once, and with it, through Ray, every worker of its run."""
    _log.error("this attempt ends at once: %s", reason)
    logging.shutdown()
    os._exit(code)


def leave_now(reason: str) -> NoReturn:
    """The same, with exit code 0: nothing is left to write."""
    exit_now(reason, 0)


class Heartbeat:
    """Extends the lease every `interval_s` from a thread of its own, reporting the run's progress.

    When the lease is lost, or the catalog has been away for as long as the lease lasts, `on_lost` is called in that
    thread: by then another attempt may train the run. `on_ended` is called instead when one of this attempt's own
    workers has ended the job (see `outcome`): the others may wait for it for ever. The first heartbeat is sent on
    entering the block.
    """

    def __init__(
        self,
        attempt: Attempt,
        catalog: Catalog,
        *,
        interval_s: float,
        lease_s: float,
        on_lost: Callable[[str], object] = exit_now,
        on_ended: Callable[[str], object] = leave_now,
    ) -> None:
        self._attempt, self._catalog = attempt, catalog
        self._interval_s, self._lease_s, self._on_lost = interval_s, lease_s, on_lost
        self._on_ended = on_ended
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._heard_at = time.monotonic()
        self._cancel_requested = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def end(self, write: Callable[[Transaction], T]) -> T:
        """Write the attempt's last rows in one transaction; no heartbeat follows.

        A catalog that is away is asked again until the lease would have run out. Raises LeaseLost and
        CatalogUnreachable.
        """
        with self._lock:
            self._stopping.set()
            deadline = time.monotonic() + self._lease_s
            while True:
                try:
                    with self._catalog.transaction() as tx:
                        return write(tx)
                except CatalogUnreachable as error:
                    if time.monotonic() > deadline:
                        raise
                    _log.warning("the end of the attempt waits: %s", error)
                time.sleep(RETRY_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            with self._lock:
                if self._stopping.is_set():
                    return
                try:
                    ended = self._beat_unless_ended()
                except LeaseLost as error:
                    self._on_lost(str(error))
                    return
                except CatalogUnreachable as error:
                    silence = time.monotonic() - self._heard_at
                    if silence > self._lease_s:
                        self._on_lost(f"no heartbeat for {silence:.0f} s. {error}")
                        return
                    _log.warning("heartbeat failed: %s", error)
                else:
                    if ended is not None:
                        self._on_ended(f"a worker has ended the job, which is {ended}")
                        return

    def _beat_unless_ended(self) -> JobState | None:
        """The state in which a worker has ended the job, if so. Raises LeaseLost and CatalogUnreachable."""
        try:
            self._beat()
        except LeaseLost:
            with self._catalog.transaction(read_only=True) as tx:
                ended = has_ended(tx, self._attempt)
            if ended is None:
                raise
            return ended
        return None

    def _beat(self) -> None:
        attempt = self._attempt
        with self._catalog.transaction() as tx:
            done = tx.runs.get(attempt.run_id).num_images
            total = attempt.config.total_images
            cancel_requested = tx.leases.heartbeat(
                attempt.job_id,
                attempt.fence,
                lease_seconds=self._lease_s,
                progress=done / total,
                # The first is never empty: the trainer takes it as the sign that this attempt was heard. After a
                # cancel the first worker says how it obeys (see `cancel`).
                message=None if self._cancel_requested else f"{done} of {total} images",
            )
        self._cancel_requested = cancel_requested
        self._heard_at = time.monotonic()
