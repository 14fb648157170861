"""Runs the workers of one attempt with Ray Train."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial

import ray
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.heartbeat import tidied_on_leave
from phema.services.trainer.control.ray_train_storage import RayTrainStorage, folder_name, ray_train_storage
from phema.services.trainer.control.ray_worker import run_worker
from phema.services.trainer.control.worker_resources import Placement, no_room, place_workers
from phema.services.trainer.training.end_notice import EndNotice
from phema.shared.settings import Settings

WORKER_RESTARTS = 3
"""How often Ray Train restarts the workers within one attempt."""


def train_on_ray(
    attempt: TrainingAttempt,
    settings: Settings,
    keep_waiting: Callable[[str], bool],
    has_ended: Callable[[str], bool],
    notice: EndNotice,
) -> None:
    """Run Ray Train until the workers have ended. `has_ended`: as of `RayTrainStorage.remove_unused`.

    Whenever they have found no room for `training_room_seconds`, it calls `keep_waiting` with a sentence, and returns
    if the answer is False. Raises TooFewResources and CannotTrain, and Ray Train's WorkerGroupError with the workers'
    errors.
    """
    ray.init(address="auto", ignore_reinit_error=True, log_to_driver=True)
    notice.listen()
    storage = ray_train_storage(settings)
    storage.remove_unused(attempt.job_id, attempt.fence, has_ended)
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(settings.training_room_seconds)
    for start in itertools.count(1):
        placement = place_workers(attempt.config, settings, ray.cluster_resources())
        # A new name for each start: under an old one Ray Train would resume from its own state.
        name = folder_name(attempt.job_id, attempt.fence, start)
        with storage.removing(name), tidied_on_leave(partial(storage.remove, name)):
            found_room = _start_workers(attempt, placement, storage, name)
        if found_room or not keep_waiting(no_room(placement, ray.cluster_resources(), ray.available_resources())):
            return


def _start_workers(attempt: TrainingAttempt, placement: Placement, storage: RayTrainStorage, name: str) -> bool:
    """Whether the workers found room, and have trained to their end."""
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=attempt.ids,
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers, use_gpu=placement.use_gpu, resources_per_worker=placement.resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            # By default Ray Train would look for room for ever, and the run's message would not say so.
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS, controller_failure_limit=0),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return False
        raise
    return True
