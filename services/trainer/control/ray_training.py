"""Runs the workers of one attempt with Ray Train."""

from __future__ import annotations

import os

import ray
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.ray_train_storage import ray_train_storage
from phema.services.trainer.control.ray_worker import run_worker
from phema.services.trainer.control.worker_resources import CannotTrain, not_placed, worker_resources
from phema.shared.settings import Settings

WORKER_RESTARTS = 3
"""How often Ray Train restarts the workers within one attempt."""


def train_on_ray(attempt: TrainingAttempt, settings: Settings) -> None:
    """Run Ray Train until the workers have ended.

    Raises CannotTrain when the cluster is too small, or has no free room within `training_room_seconds`, and Ray
    Train's WorkerGroupError with the workers' errors.
    """
    config = attempt.config
    ray.init(address="auto", ignore_reinit_error=True, log_to_driver=True)
    resources, use_gpu = worker_resources(attempt, settings, ray.cluster_resources())
    storage = ray_train_storage(settings)
    # A new name for each attempt: under an old one Ray Train would resume from its own state.
    name = f"{attempt.job_id}-a{attempt.fence}"
    for earlier in range(1, attempt.fence):
        storage.remove(f"{attempt.job_id}-a{earlier}")
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(settings.training_room_seconds)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=attempt.ids,
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            # By default Ray Train would look for room for ever, while the catalog shows the run as running.
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS, controller_failure_limit=0),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise
        sentence = not_placed(
            config.num_workers, resources, settings, ray.cluster_resources(), ray.available_resources()
        )
        raise CannotTrain(sentence, retry=True) from error
    storage.remove(name)


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
