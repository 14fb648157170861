"""The driver of one attempt: `python -m phema.services.trainer.control.driver --job ID --fence N`, a Ray job.

It sends heartbeats that carry its fence, trains, and writes the job's terminal state unless a worker already has (see
`terminal_state`). A run of one worker trains in this process, for which Ray has reserved the worker's CPUs and GPU. For
other runs, Ray Train starts the workers. If the driver loses its lease, it ends at once. If it dies, the trainer starts
the next attempt.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.heartbeat import EXIT_LOST, Waiting, hold_lease
from phema.services.trainer.control.job_environment import MissingSecret, check_secrets
from phema.services.trainer.training.end_notice import EndNotice
from phema.shared.catalog import Catalog, FailureCause, LeaseLost
from phema.shared.service_runtime.catalog_outages import outlast
from phema.shared.settings import Settings
from phema.shared.telemetry import configure_logs, process_log_fields
from phema.shared.validation_sentences import sentence
from phema.shared.wiring import catalog_from

T = TypeVar("T")
_log = logging.getLogger("phema.services.trainer.control.driver")  # __name__ is "__main__" here


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if the attempt's end was written, 2 if a secret is missing, EXIT_LOST if the lease is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--fence", required=True, type=int)
    parser.add_argument("--inherits", default="", help="secrets that the environment must hold, separated by commas")
    parser.add_argument("--device", help="cpu or cuda:0: train in this process, for which Ray has reserved it")
    options = parser.parse_args(arguments)
    try:
        check_secrets(tuple(filter(None, options.inherits.split(","))), os.environ)
    except MissingSecret as error:
        print(error, file=sys.stderr)
        return 2
    notice = EndNotice()
    notice.listen()
    settings = Settings()
    configure_logs("training", level=settings.log_level, job_id=options.job, attempt=options.fence)
    catalog = catalog_from(settings)
    with contextlib.closing(catalog):
        fields = _patiently(settings, lambda: _log_fields_of(catalog, options.job))
        with process_log_fields(**fields):
            try:
                return drive(catalog, settings, options.job, options.fence, device=options.device, notice=notice)
            except LeaseLost as error:
                _log.warning("%s", error)
                return EXIT_LOST


def _patiently(settings: Settings, action: Callable[[], T]) -> T:
    """The result of `action`. The start of a training outlasts an outage of the catalog, as the rest of it does."""
    return outlast(action, "the start of the training", limit_s=settings.training_outage_seconds)


def _log_fields_of(catalog: Catalog, job_id: str) -> dict[str, object]:
    """The job's log fields, also if another attempt holds the job by now."""
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
    return {"run_id": job.run_id, "request_id": job.request_id}


def drive(
    catalog: Catalog,
    settings: Settings,
    job_id: str,
    fence: int,
    *,
    device: str | None = None,
    notice: EndNotice | None = None,
) -> int:
    """Train and write how the attempt ended; returns exit code 0. Raises LeaseLost when another attempt has the job.

    `device` and `notice` as in `attempt_work.work_on`.
    """
    try:
        attempt = _patiently(settings, lambda: load_attempt(catalog, job_id, fence))
    except ValidationError as error:
        problem = sentence(error.errors(include_url=False)[0])
        with catalog.transaction() as tx:
            said = f"The run's configuration is not valid: {problem}."
            tx.leases.fail(job_id, fence, said, retry=False, cause=FailureCause.CONFIGURATION)
        return 0
    waiting = Waiting()
    holder = hold_lease(
        attempt,
        catalog,
        interval_s=settings.heartbeat_seconds,
        lease_s=settings.lease_seconds,
        outage_s=settings.training_outage_seconds,
        waiting=waiting,
    )
    with contextlib.ExitStack() as stack:
        lease = _patiently(settings, lambda: stack.enter_context(holder))
        # Not at the top: torch takes seconds to import, and the trainer waits for the first heartbeat.
        from phema.services.trainer.control.attempt_work import work_on

        notice = notice or EndNotice()
        state = work_on(attempt, catalog, settings, lease, device=device, waiting=waiting, notice=notice)
    _log.info("the attempt ended, its job is %s", state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
