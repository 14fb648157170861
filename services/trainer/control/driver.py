"""The driver of one attempt: `python -m phema.services.trainer.control.driver --job ID --fence N`, a Ray job.

It sends heartbeats that carry its fence, runs Ray Train, and writes the job's terminal state unless a worker already
has (see `terminal_state`). If it loses its lease, it ends at once. If it dies, the trainer starts the next attempt.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys

from pydantic import ValidationError

from phema.services.trainer.attempt import TrainingAttempt, load_attempt
from phema.services.trainer.control.heartbeat import EXIT_LOST, hold_lease
from phema.services.trainer.control.job_environment import MissingSecret, check_secrets
from phema.services.trainer.control.ray_training import root_cause, train_on_ray
from phema.services.trainer.control.terminal_state import finish_job, write_unless_ended
from phema.services.trainer.control.worker_resources import CannotTrain
from phema.services.trainer.training.run_checks import verify_dataset
from phema.shared.catalog import Catalog, JobState, LeaseLost, Transaction
from phema.shared.datasets import DatasetError
from phema.shared.service_runtime.lease_holder import LeaseHolder
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import configure_logs, process_log_fields
from phema.shared.wiring import catalog_from, remote_from, store_from

_log = logging.getLogger("phema.services.trainer.control.driver")  # __name__ is "__main__" here


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if the attempt's end was written, 2 if a secret is missing, EXIT_LOST if the lease is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--fence", required=True, type=int)
    parser.add_argument("--inherits", default="", help="secrets that the environment must hold, separated by commas")
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
            return drive(catalog, settings, options.job, options.fence)
        except LeaseLost as error:
            _log.warning("%s", error)
            return EXIT_LOST


def _log_fields_of(catalog: Catalog, job_id: str) -> dict[str, object]:
    """The job's log fields, also if another attempt holds the job by now."""
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
    return {"run_id": job.run_id, "request_id": job.request_id}


def drive(catalog: Catalog, settings: Settings, job_id: str, fence: int) -> int:
    """Train and write how the attempt ended; returns exit code 0. Raises LeaseLost when another attempt has the job."""
    try:
        attempt = load_attempt(catalog, job_id, fence)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        sentence = f"The run's configuration is not valid: {'.'.join(map(str, problem['loc']))}: {problem['msg']}."
        with catalog.transaction() as tx:
            tx.leases.fail(job_id, fence, sentence, retry=False)
        return 0
    lease = hold_lease(
        attempt,
        catalog,
        interval_s=settings.heartbeat_seconds,
        lease_s=settings.lease_seconds,
        outage_s=settings.training_outage_seconds,
    )
    with lease:
        try:
            verify_dataset(attempt.config, remote_from(settings))
            store_from(settings).check()
            train_on_ray(attempt, settings)
        except CannotTrain as error:
            state = _fail(lease, attempt, str(error), retry=error.retry)
        except DatasetError as error:
            state = _fail(lease, attempt, str(error), retry=False)
        except SnapshotError as error:
            state = _fail(lease, attempt, str(error), retry=True)
        except Exception as error:  # the job's row must say why, whatever the error is
            _log.exception("training failed")
            state = _fail(lease, attempt, f"Training failed: {root_cause(error)}", retry=True)
        else:
            state = lease.end(lambda tx: write_unless_ended(tx, attempt, lambda tx: finish_job(tx, attempt)))
    _log.info("the attempt ended, its job is %s", state)
    return 0


def _fail(lease: LeaseHolder, attempt: TrainingAttempt, error: str, *, retry: bool) -> JobState:
    def write(tx: Transaction) -> JobState:
        return tx.leases.fail(attempt.job_id, attempt.fence, error, retry=retry)

    return lease.end(lambda tx: write_unless_ended(tx, attempt, write))


if __name__ == "__main__":
    sys.exit(main())
