"""The lease of a driver: its heartbeats report the run's progress, and the process exits when the lease is lost."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from phema.services.trainer.attempt import TrainingAttempt
from phema.shared.catalog import Catalog, CatalogUnreachable
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder

EXIT_LOST = 3
"""Exit code of a driver that has lost its lease."""
TIDY_SECONDS = 5.0
"""Time that a driver has to tidy up before it leaves."""
WORKERS_STARTED = "the workers have started"
"""Message of a job whose workers have found room: the driver then no longer reports that they wait for it."""
_log = logging.getLogger(__name__)


def exit_now(reason: str, code: int = EXIT_LOST) -> NoReturn:
    """End this process at once. Ray then ends every worker of its run."""
    _log.error("this attempt ends at once: %s", reason)
    logging.shutdown()
    os._exit(code)


_tidying: list[Callable[[], object]] = []
"""Actions that `leave_now` carries out."""


@contextmanager
def tidied_on_leave(action: Callable[[], object]) -> Iterator[None]:
    """Within the block, `leave_now` carries out `action`, because no code after the block will run then."""
    _tidying.append(action)
    try:
        yield
    finally:
        _tidying.remove(action)


def leave_now(reason: str) -> NoReturn:
    """End this process with exit code 0, within TIDY_SECONDS: nothing is left to write."""

    def tidy() -> None:
        for action in list(_tidying):
            action()

    thread = threading.Thread(target=tidy, name="tidy", daemon=True)
    thread.start()
    thread.join(TIDY_SECONDS)
    exit_now(reason, 0)


@dataclass
class Waiting:
    """What a run waits for, which its heartbeats report until its workers start or more images are trained."""

    sentence: str | None = None
    num_images: int | None = None


def report_start(attempt: TrainingAttempt, catalog: Catalog) -> None:
    """Tell the driver, through the job's message, that the workers have started. Raises LeaseLost."""
    with suppress(CatalogUnreachable), catalog.transaction() as tx:
        tx.leases.report(attempt.job_id, attempt.fence, WORKERS_STARTED)


def hold_lease(
    attempt: TrainingAttempt,
    catalog: Catalog,
    *,
    interval_s: float,
    lease_s: float,
    outage_s: float = math.inf,
    waiting: Waiting | None = None,
    on_lost: Callable[[str], object] = exit_now,
    on_ended: Callable[[str], object] = leave_now,
) -> LeaseHolder:
    """The driver's lease holder. Entering it sends the first heartbeat.

    A catalog that is away for up to `outage_s` does not stop the training: its writes carry the fence, so it harms no
    other attempt that has taken the run over meanwhile, and the first heartbeat afterwards tells. After a longer
    outage the driver exits. When one of its own workers has ended the job (see `terminal_state`), the driver exits too:
    the others could wait for it for ever.
    """

    waits = waiting or Waiting()

    def progress() -> JobProgress:
        with catalog.transaction(read_only=True) as tx:
            done = tx.runs.get(attempt.run_id).num_images
            started = tx.jobs.get(attempt.job_id).message == WORKERS_STARTED
        total = attempt.config.total_images
        if started or waits.num_images != done:
            waits.sentence, waits.num_images = None, done
        said = waits.sentence or f"{done} of {total} images"
        # The first message is never empty: the trainer takes it as proof that the driver has started. After a cancel or
        # a pause, the first worker writes the message (see `cancellation`).
        # A wait must not replace the word that it is over, which may have been written since the read above.
        keep = WORKERS_STARTED if waits.sentence else None
        return JobProgress(done / total, None if lease.stop_requested else said, keep)

    lease = LeaseHolder(
        catalog,
        attempt.job_id,
        attempt.fence,
        interval_s=interval_s,
        lease_s=lease_s,
        progress=progress,
        outage_limit_s=outage_s,
        beat_on_enter=True,
        on_lost=on_lost,
        on_ended=on_ended,
    )
    return lease
