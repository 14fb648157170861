"""The lease of a driver: its heartbeats report the run's progress, and the process exits when the lease is lost."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from phema.services.trainer.attempt import TrainingAttempt
from phema.shared.catalog import Catalog
from phema.shared.service_runtime.lease_holder import JobProgress, LeaseHolder

EXIT_LOST = 3
"""Exit code of a driver that has lost its lease."""
_log = logging.getLogger(__name__)


def exit_now(reason: str, code: int = EXIT_LOST) -> NoReturn:
    """End this process at once. Ray then ends every worker of its run."""
    _log.error("this attempt ends at once: %s", reason)
    logging.shutdown()
    os._exit(code)


def leave_now(reason: str) -> NoReturn:
    """End this process at once with exit code 0: nothing is left to write."""
    exit_now(reason, 0)


@dataclass
class Waiting:
    """What a run waits for, which its heartbeats report until more images are trained."""

    sentence: str | None = None
    num_images: int | None = None


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
        total = attempt.config.total_images
        if waits.num_images != done:
            waits.sentence, waits.num_images = None, done
        said = waits.sentence or f"{done} of {total} images"
        # The first message is never empty: the trainer takes it as proof that the driver has started. After a cancel,
        # the first worker writes the message (see `cancellation`).
        return JobProgress(done / total, None if lease.cancel_requested else said)

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
