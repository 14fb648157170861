"""The entry point of each Ray Train worker. Its environment is that of the Ray job (see `job_environment`)."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray.train
import ray.train.torch

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.heartbeat import report_start
from phema.services.trainer.control.worker import train_as_worker
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import LeaseLost
from phema.shared.service_runtime.catalog_outages import outlast
from phema.shared.settings import Settings
from phema.shared.telemetry import configure_logs
from phema.shared.wiring import catalog_from

_log = logging.getLogger(__name__)


def run_worker(config: dict[str, Any]) -> None:
    """Train in this worker until the run ends.

    `config` is `TrainingAttempt.ids`; it must hold no secret, because Ray shows it. Ray Train calls this function again
    in a new process group after a worker has died. The loop then resumes from the latest checkpoint. It returns at
    once if the attempt no longer holds the job: a permanent error ended the job, or another attempt has taken over.
    """
    settings = Settings()
    context = ray.train.get_context()
    configure_logs("training", level=settings.log_level, rank=context.get_world_rank(), **config)
    group = WorkerGroup(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    with contextlib.closing(catalog_from(settings)) as catalog:
        try:
            attempt = outlast(
                lambda: load_attempt(catalog, config["job_id"], config["attempt"]),
                "the worker's start",
                limit_s=settings.training_outage_seconds,
            )
            if group.is_first:
                report_start(attempt, catalog)
        except LeaseLost as error:
            _log.warning("%s", error)
            return
        try:
            train_as_worker(attempt, catalog, settings, group, EndNotice(_preempted))
        except Exception as error:
            _log.exception("training failed")
            # Ray pickles this exception. One with custom constructor arguments may fail to unpickle.
            raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _preempted() -> bool:
    """Whether Ray has announced that the node of a worker goes away. All workers must call it equally often."""
    ask = getattr(ray.train, "get_preemption_info", None)  # older versions of Ray lack it
    return ask is not None and ask() is not None
