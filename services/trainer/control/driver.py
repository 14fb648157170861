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

from pydantic import ValidationError

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.heartbeat import EXIT_LOST, Waiting, hold_lease
from phema.services.trainer.control.job_environment import MissingSecret, check_secrets
from phema.shared.catalog import Catalog, LeaseLost
from phema.shared.settings import Settings
from phema.shared.telemetry import configure_logs, process_log_fields
from phema.shared.wiring import catalog_from

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
    settings = Settings()
    configure_logs("training", level=settings.log_level, job_id=options.job, attempt=options.fence)
    catalog = catalog_from(settings)
    with contextlib.closing(catalog), process_log_fields(**_log_fields_of(catalog, options.job)):
        try:
            return drive(catalog, settings, options.job, options.fence, device=options.device)
        except LeaseLost as error:
            _log.warning("%s", error)
            return EXIT_LOST


def _log_fields_of(catalog: Catalog, job_id: str) -> dict[str, object]:
    """The job's log fields, also if another attempt holds the job by now."""
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
    return {"run_id": job.run_id, "request_id": job.request_id}


def drive(catalog: Catalog, settings: Settings, job_id: str, fence: int, *, device: str | None = None) -> int:
    """Train and write how the attempt ended; returns exit code 0. Raises LeaseLost when another attempt has the job.

    `device` as in `attempt_work.work_on`.
    """
    try:
        attempt = load_attempt(catalog, job_id, fence)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        sentence = f"The run's configuration is not valid: {'.'.join(map(str, problem['loc']))}: {problem['msg']}."
        with catalog.transaction() as tx:
            tx.leases.fail(job_id, fence, sentence, retry=False)
        return 0
    waiting = Waiting()
    lease_of_driver = hold_lease(
        attempt,
        catalog,
        interval_s=settings.heartbeat_seconds,
        lease_s=settings.lease_seconds,
        outage_s=settings.training_outage_seconds,
        waiting=waiting,
    )
    with lease_of_driver as lease:
        # Not at the top: torch takes seconds to import, and the trainer waits for the first heartbeat.
        from phema.services.trainer.control.attempt_work import work_on

        state = work_on(attempt, catalog, settings, lease, device=device, waiting=waiting)
    _log.info("the attempt ended, its job is %s", state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
