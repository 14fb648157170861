"""Holds the lease of one attempt at a job: heartbeats while the attempt works, then its last write.

This is the only place that decides what a missed heartbeat, an unreachable catalog and a lost lease mean.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from phema.shared.catalog import Catalog, CatalogError, LeaseLost, Transaction
from phema.shared.service_runtime.catalog_outages import RETRY_SECONDS, outlast

T = TypeVar("T")
log = logging.getLogger(__name__)


class JobProgress(NamedTuple):
    """What a heartbeat reports; None leaves the job's field as it is."""

    fraction: float | None = None
    """Done so far, 0 to 1."""
    message: str | None = None
    keep: str | None = None
    """A message of the job that `message` does not replace."""


def _nothing(*_: object) -> None:
    pass


class LeaseHolder:
    """Context manager that sends heartbeats of attempt `fence` at job `job_id` from a thread of its own.

    Policy:

    - Every `interval_s` a heartbeat extends the lease to `lease_s` from now and reports `progress()`.
    - The catalog cannot be reached: the heartbeat is logged as missed and the work goes on. After `outage_limit_s`
      without a successful heartbeat, the lease counts as lost. By default there is no limit: a lost lease then shows
      when the catalog is back.
    - Another attempt has the job, or the outage limit is reached: `lost` becomes True, `on_lost(reason)` is called in
      the heartbeat thread, and no heartbeat follows.
    - The job has ended under this attempt's own fence, because another process of the attempt ended it: as above, with
      `on_ended(reason)` instead of `on_lost`.
    - A user has requested a cancel, or a pause of a run: `stop_requested` becomes True and heartbeats go on.

    Every write carries the fence, so an attempt that has lost its lease changes nothing in the catalog, whatever its
    process still does.
    """

    def __init__(
        self,
        catalog: Catalog,
        job_id: str,
        fence: int,
        *,
        interval_s: float,
        lease_s: float,
        progress: Callable[[], JobProgress],
        outage_limit_s: float = math.inf,
        beat_on_enter: bool = False,
        retry_s: float = RETRY_SECONDS,
        stopping: threading.Event | None = None,
        on_beat: Callable[[], object] = _nothing,
        on_lost: Callable[[str], object] = _nothing,
        on_ended: Callable[[str], object] | None = None,
    ) -> None:
        """
        Args:
            progress: called before each heartbeat, outside its transaction. May raise CatalogUnreachable.
            outage_limit_s: also bounds how long `end` retries.
            beat_on_enter: send the first heartbeat on entering the block, which then raises LeaseLost and
                CatalogUnreachable. Otherwise the first one follows after `interval_s`.
            retry_s: pause between two tries of `end`.
            stopping: once set, `end` does not retry.
            on_beat: called in the heartbeat thread after each successful heartbeat.
            on_ended: defaults to `on_lost`.
        """
        self._catalog, self._job_id, self._fence = catalog, job_id, fence
        self._interval_s, self._lease_s, self._outage_limit_s = interval_s, lease_s, outage_limit_s
        self._progress, self._beat_on_enter, self._retry_s = progress, beat_on_enter, retry_s
        self._service_stops = stopping or threading.Event()
        self._on_beat, self._on_lost, self._on_ended = on_beat, on_lost, on_ended or on_lost
        self._done = threading.Event()
        self._writing = threading.Lock()
        self._last_beat = time.monotonic()
        self._thread: threading.Thread | None = None
        self.lost = False
        self.stop_requested = False
        self.end_uncertain = False
        """Whether a try of `end` lost the connection, so that its transaction may have been committed."""

    def __enter__(self) -> Self:
        self._last_beat = time.monotonic()
        if self._beat_on_enter:
            self._beat()
        # The copy carries the caller's log fields into the thread.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def end(self, write: Callable[[Transaction], T]) -> T:
        """Write the attempt's last rows in one transaction; no heartbeat follows.

        Retries while the catalog cannot be reached, for at most `outage_limit_s` and until `stopping` is set; then
        raises CatalogUnreachable. Raises LeaseLost when another attempt has the job, or, if `end_uncertain`, when an
        earlier try was committed after all.
        """
        with self._writing:
            self._done.set()
            return outlast(
                lambda: self._write(write),
                "the end of the job",
                limit_s=self._outage_limit_s,
                retry_s=self._retry_s,
                stopping=self._service_stops,
                on_outage=self._end_is_uncertain,
            )

    def _write(self, write: Callable[[Transaction], T]) -> T:
        with self._catalog.transaction() as tx:
            return write(tx)

    def _end_is_uncertain(self) -> None:
        self.end_uncertain = True

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            with self._writing:
                if self._done.is_set() or not self._beat_or_give_up():
                    return

    def _beat_or_give_up(self) -> bool:
        """Send one heartbeat; False when no further one should follow."""
        try:
            try:
                self._beat()
                return True
            except LeaseLost as error:
                reason, tell = self._why_lost(error)
        except Exception as error:
            # Whatever went wrong, the next heartbeat may succeed: this thread must not end while the work goes on.
            silence = time.monotonic() - self._last_beat
            if silence <= self._outage_limit_s:
                log.warning("heartbeat missed: %s", error, exc_info=not isinstance(error, CatalogError))
                return True
            reason, tell = f"no heartbeat for {silence:.0f} s. {error}", self._on_lost
        self.lost = True
        tell(reason)
        return False

    def _why_lost(self, error: LeaseLost) -> tuple[str, Callable[[str], object]]:
        """(reason, the callback to tell). Raises CatalogUnreachable."""
        with self._catalog.transaction(read_only=True) as tx:
            ended = tx.leases.end_of(self._job_id, self._fence)
        if ended is None:
            return str(error), self._on_lost
        return f"a worker has ended the job, which is {ended}", self._on_ended

    def _beat(self) -> None:
        progress = self._progress()
        with self._catalog.transaction() as tx:
            self.stop_requested = tx.leases.heartbeat(
                self._job_id,
                self._fence,
                lease_seconds=self._lease_s,
                progress=progress.fraction,
                message=progress.message,
                keep=progress.keep,
            )
        self._last_beat = time.monotonic()
        self._on_beat()
