"""The work of a driver that holds its lease: checks, training, and the job's next state.

The driver imports this module after its first heartbeat, because torch and Ray Train take seconds to import.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.failure_causes import Failure, failure_of, write_failure
from phema.services.trainer.control.heartbeat import Waiting
from phema.services.trainer.control.terminal_state import finish_job, request_release, write_unless_ended
from phema.services.trainer.control.worker import train_as_worker
from phema.services.trainer.control.worker_resources import WAITING, TooFewResources
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.run_checks import verify_dataset
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, CatalogUnreachable, JobState, LeaseLost, NotFound, Transaction
from phema.shared.service_runtime.lease_holder import LeaseHolder
from phema.shared.settings import Settings
from phema.shared.telemetry import process_log_fields
from phema.shared.wiring import remote_from, store_from

_LOOK_SECONDS = 0.2
_log = logging.getLogger(__name__)


def work_on(
    attempt: TrainingAttempt,
    catalog: Catalog,
    settings: Settings,
    lease: LeaseHolder,
    *,
    device: str | None,
    waiting: Waiting,
    notice: EndNotice,
) -> JobState:
    """Train, and write how the attempt ended. Returns the job's next state; raises LeaseLost.

    After `notice`, the training stops with a checkpoint, and the job is queued again.

    With `device`, train in this process, on the CPUs and the GPU that Ray has reserved for it. Otherwise Ray Train
    starts the workers.
    """
    try:
        verify_dataset(attempt.config, remote_from(settings))
        store_from(settings).check()
        if notice.given:
            request_release(attempt, catalog, settings.training_stop_seconds)
        elif device is not None:
            with process_log_fields(rank=0):
                train_as_worker(attempt, catalog, settings, WorkerGroup(device=torch.device(device)), notice)
        else:
            with _passed_on(notice, attempt, catalog, settings):
                _train_on_ray(attempt, catalog, settings, lease, waiting, notice)
    except TooFewResources as error:
        message = f"{WAITING}{error}"
        return lease.end(lambda tx: tx.leases.release(attempt.job_id, attempt.fence, message).state)
    except LeaseLost:
        raise
    except Exception as error:  # the job's row must say why, whatever the error is
        failure = failure_of(error)
        _log.error("training failed (%s)", failure.cause, exc_info=failure.retry)
        return _fail(lease, attempt, failure)
    return lease.end(lambda tx: write_unless_ended(tx, attempt, lambda tx: finish_job(tx, attempt)))


@contextmanager
def _passed_on(notice: EndNotice, attempt: TrainingAttempt, catalog: Catalog, settings: Settings) -> Iterator[None]:
    """Within the block, tell the workers through the job's row when this process is asked to end."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if notice.wait(_LOOK_SECONDS):
                _log.warning("the driver was asked to end: the run stops after a checkpoint")
                with suppress(LeaseLost, CatalogUnreachable):
                    request_release(attempt, catalog, settings.training_stop_seconds)
                return

    thread = threading.Thread(target=watch, name="end-notice", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _train_on_ray(
    attempt: TrainingAttempt,
    catalog: Catalog,
    settings: Settings,
    lease: LeaseHolder,
    waiting: Waiting,
    notice: EndNotice,
) -> None:
    # Not at the top: a run in this process needs neither Ray nor Ray Train.
    from phema.services.trainer.control.ray_training import train_on_ray

    def keep_waiting(sentence: str) -> bool:
        waiting.sentence = f"{WAITING}{sentence}"
        _log.info("%s", waiting.sentence)
        return not lease.stop_requested and not notice.given

    def has_ended(job_id: str) -> bool:
        try:
            with catalog.transaction(read_only=True) as tx:
                return tx.jobs.get(job_id).state.terminal
        except (NotFound, CatalogUnreachable):
            return False  # perhaps another catalog's job

    train_on_ray(attempt, settings, keep_waiting, has_ended, notice)


def _fail(lease: LeaseHolder, attempt: TrainingAttempt, failure: Failure) -> JobState:
    def write(tx: Transaction) -> JobState:
        return write_failure(tx, attempt, failure)

    return lease.end(lambda tx: write_unless_ended(tx, attempt, write))
