"""The driver of one attempt: `python -m phema.services.trainer.control.driver --job ID --fence N`, a Ray job.

It sends heartbeats that carry its fence, runs Ray Train, and writes the terminal row, unless a worker has (see
`outcome`). When its lease is lost it ends at once; when it dies, the trainer retries.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys

import ray
from pydantic import ValidationError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from phema.services.trainer.control.attempt import Attempt, load_attempt
from phema.services.trainer.control.heartbeat import EXIT_LOST, hold_lease
from phema.services.trainer.control.job_environment import MissingSecret, check_secrets
from phema.services.trainer.control.outcome import conclude, end_once
from phema.services.trainer.control.ray_train_storage import bookkeeping
from phema.services.trainer.training.precision import UnsupportedPrecision, check_precision
from phema.services.trainer.training.ray_worker import run_worker
from phema.shared.catalog import Catalog, JobState, LeaseLost, Transaction
from phema.shared.datasets import DatasetError, check_dataset
from phema.shared.service_runtime.lease_holder import LeaseHolder
from phema.shared.settings import Settings
from phema.shared.snapshots import SnapshotError
from phema.shared.telemetry import configure_logs, process_log_fields
from phema.shared.wiring import catalog_from, dataset_from, store_from

WORKER_RESTARTS = 3
"""Times that Ray Train starts the workers again within one attempt."""
_log = logging.getLogger("phema.services.trainer.control.driver")  # it runs as __main__


class CannotTrain(ValueError):
    """The run cannot be trained as it is configured here; the message is one sentence."""

    def __init__(self, sentence: str, *, retry: bool) -> None:
        super().__init__(sentence)
        self.retry = retry


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when a terminal row or a retry was written, whatever it says; 2 and 3 when it could not be."""
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
    with contextlib.closing(catalog), process_log_fields(**_asked(catalog, options.job)):
        try:
            return drive(catalog, settings, options.job, options.fence)
        except LeaseLost as error:
            _log.warning("%s", error)
            return EXIT_LOST


def _asked(catalog: Catalog, job_id: str) -> dict[str, object]:
    """What log lines should say of the job, whoever holds it by now."""
    with catalog.transaction(read_only=True) as tx:
        job = tx.jobs.get(job_id)
    return {"run_id": job.run_id, "request_id": job.request_id}


def drive(catalog: Catalog, settings: Settings, job_id: str, fence: int) -> int:
    """Train, and write how it ended. Raises LeaseLost when another attempt has the job."""
    try:
        attempt = load_attempt(catalog, job_id, fence)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        sentence = f"The run's configuration is not valid: {'.'.join(map(str, problem['loc']))}: {problem['msg']}."
        with catalog.transaction() as tx:
            tx.leases.fail(job_id, fence, sentence, retry=False)
        return 0
    lease = hold_lease(attempt, catalog, interval_s=settings.heartbeat_seconds, lease_s=settings.lease_seconds)
    with lease:
        try:
            check_data(attempt, settings)
            store_from(settings).check()
            fit(attempt, settings)
        except CannotTrain as error:
            state = _fail(lease, attempt, str(error), retry=error.retry)
        except DatasetError as error:
            state = _fail(lease, attempt, str(error), retry=False)
        except SnapshotError as error:
            state = _fail(lease, attempt, str(error), retry=True)
        except Exception as error:  # whatever went wrong belongs in the row; a bare exit would say nothing
            _log.exception("training failed")
            state = _fail(lease, attempt, f"Training failed: {root_cause(error)}", retry=True)
        else:
            state = lease.end(lambda tx: end_once(tx, attempt, lambda tx: conclude(tx, attempt)))
    _log.info("the attempt ended, its job is %s", state)
    return 0


def check_data(attempt: Attempt, settings: Settings) -> None:
    """Open the run's dataset and decode a sample of it. Raises DatasetError, SnapshotError when S3 cannot be read."""
    config = attempt.config
    check_dataset(config.dataset, config.network)
    dataset = dataset_from(settings, config.dataset)
    dataset.check(config.network)
    dataset.verify()


def fit(attempt: Attempt, settings: Settings) -> None:
    """Run Ray Train to its end. Raises CannotTrain when the cluster is too small or has no room for
    `training_room_seconds`, and what the workers raised.
    """
    config = attempt.config
    ray.init(address="auto", ignore_reinit_error=True, log_to_driver=True)
    resources, use_gpu = worker_resources(attempt, settings, ray.cluster_resources())
    notes = bookkeeping(settings)
    name = f"{attempt.job_id}-a{attempt.fence}"
    for earlier in range(1, attempt.fence):
        notes.remove(f"{attempt.job_id}-a{earlier}")
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(settings.training_room_seconds)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=attempt.ids,
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            # A name of its own: under an old one Ray Train would resume from its own notes.
            name=name,
            storage_path=notes.path,
            storage_filesystem=notes.filesystem,
            # Ray Train would look for room again without end, behind a run that is called running.
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS, controller_failure_limit=0),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise
        sentence = no_room(config.num_workers, resources, settings, ray.cluster_resources(), ray.available_resources())
        raise CannotTrain(sentence, retry=True) from error
    notes.remove(name)


def worker_resources(attempt: Attempt, settings: Settings, cluster: dict[str, float]) -> tuple[dict[str, float], bool]:
    """(resources of one worker, whether it is a GPU). Raises CannotTrain when the whole cluster has too few and cannot
    grow to them, or the run's precision needs GPUs and there are none to take.

    An autoscaler adds nodes for what waits, so what it may add counts as there.
    """
    config = attempt.config
    most = {
        "CPU": max(cluster.get("CPU", 0.0), settings.cluster_max_cpus),
        "GPU": max(cluster.get("GPU", 0.0), settings.cluster_max_gpus),
    }
    use_gpu = config.device == "cuda" or (config.device == "auto" and most["GPU"] >= config.num_workers)
    resources = {"CPU": settings.training_cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    try:
        check_precision(config, "cuda" if use_gpu else "cpu")
    except UnsupportedPrecision as error:
        raise CannotTrain(str(error), retry=False) from error
    for kind, each in resources.items():
        if each * config.num_workers > most[kind]:
            raise CannotTrain(
                f"num_workers {config.num_workers} needs {each * config.num_workers:g} {kind}s, "
                f"but the cluster has {most[kind]:g}",
                retry=True,
            )
    return resources, use_gpu


def no_room(
    num_workers: int, resources: dict[str, float], settings: Settings, cluster: dict[str, float], free: dict[str, float]
) -> str:
    """Why workers were not placed in a cluster that is large enough: others hold what they need."""
    each = " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items())
    left = ", ".join(f"{free.get(kind, 0.0):g} of {cluster.get(kind, 0.0):g} {kind}s" for kind in resources)
    return (
        f"num_workers {num_workers} waited {settings.training_room_seconds:g} s for room in vain: each worker takes "
        f"{each} of one node, and {left} are free; other trainings and the actors of phema workers "
        f"(PHEMA_ACTOR_CPUS, PHEMA_ACTOR_GPUS) hold the rest"
    )


def root_cause(error: BaseException) -> str:
    """One line on why training failed: of the first worker that did, the last line of its traceback."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = min(failures.items())
        return f"worker {rank}: {_last_line(failure).removeprefix('RuntimeError: ')}"
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:500] if lines else type(error).__name__


def _fail(lease: LeaseHolder, attempt: Attempt, error: str, *, retry: bool) -> JobState:
    def write(tx: Transaction) -> JobState:
        return tx.leases.fail(attempt.job_id, attempt.fence, error, retry=retry)

    return lease.end(lambda tx: end_once(tx, attempt, write))


if __name__ == "__main__":
    sys.exit(main())
