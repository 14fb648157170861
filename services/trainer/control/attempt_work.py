"""The work of a driver that holds its lease: checks, training, and the job's next state.

The driver imports this module after its first heartbeat, because torch and Ray Train take seconds to import.
"""

from __future__ import annotations

import logging

import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.heartbeat import Waiting
from phema.services.trainer.control.terminal_state import finish_job, write_unless_ended
from phema.services.trainer.control.worker import train_as_worker
from phema.services.trainer.control.worker_resources import WAITING, CannotTrain, TooFewResources
from phema.services.trainer.training.run_checks import verify_dataset
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, JobState, LeaseLost, Transaction
from phema.shared.datasets import DatasetError
from phema.shared.service_runtime.lease_holder import LeaseHolder
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import process_log_fields
from phema.shared.wiring import remote_from, store_from

_log = logging.getLogger(__name__)


def work_on(
    attempt: TrainingAttempt,
    catalog: Catalog,
    settings: Settings,
    lease: LeaseHolder,
    *,
    device: str | None,
    waiting: Waiting,
) -> JobState:
    """Train, and write how the attempt ended. Returns the job's next state; raises LeaseLost.

    With `device`, train in this process, on the CPUs and the GPU that Ray has reserved for it. Otherwise Ray Train
    starts the workers.
    """
    try:
        verify_dataset(attempt.config, remote_from(settings))
        store_from(settings).check()
        if device is not None:
            with process_log_fields(rank=0):
                train_as_worker(attempt, catalog, settings, WorkerGroup(device=torch.device(device)))
        else:
            _train_on_ray(attempt, settings, lease, waiting)
    except TooFewResources as error:
        message = f"{WAITING}{error}"
        return lease.end(lambda tx: tx.leases.release(attempt.job_id, attempt.fence, message).state)
    except (CannotTrain, DatasetError) as error:
        return _fail(lease, attempt, str(error), retry=False)
    except SnapshotError as error:
        return _fail(lease, attempt, str(error), retry=True)
    except LeaseLost:
        raise
    except Exception as error:  # the job's row must say why, whatever the error is
        _log.exception("training failed")
        return _fail(lease, attempt, f"Training failed: {root_cause(error)}", retry=True)
    return lease.end(lambda tx: write_unless_ended(tx, attempt, lambda tx: finish_job(tx, attempt)))


def _train_on_ray(attempt: TrainingAttempt, settings: Settings, lease: LeaseHolder, waiting: Waiting) -> None:
    # Not at the top: a run in this process needs neither Ray nor Ray Train.
    from phema.services.trainer.control.ray_training import train_on_ray

    def keep_waiting(sentence: str) -> bool:
        waiting.sentence = f"{WAITING}{sentence}"
        _log.info("%s", waiting.sentence)
        return not lease.cancel_requested

    train_on_ray(attempt, settings, keep_waiting)


def _fail(lease: LeaseHolder, attempt: TrainingAttempt, error: str, *, retry: bool) -> JobState:
    def write(tx: Transaction) -> JobState:
        return tx.leases.fail(attempt.job_id, attempt.fence, error, retry=retry)

    return lease.end(lambda tx: write_unless_ended(tx, attempt, write))


def root_cause(error: BaseException) -> str:
    """Why training failed, in one line: the last line of the traceback of the lowest-ranked worker that failed."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = min(failures.items())
        return f"worker {rank}: {_last_line(failure).removeprefix('RuntimeError: ')}"
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:500] if lines else type(error).__name__
