"""The entry point of each Ray Train worker. Its environment is that of the Ray job (see `job_environment`)."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray.train
import ray.train.torch
import torch

from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.control.terminal_state import permanent_errors_fail_the_job
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import LeaseLost
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.service_runtime.outages import outlast
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters, configure_logs
from phema.shared.wiring import catalog_from, remote_from, store_from

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
    # CPU kernels sum in an order that depends on the number of threads, which must not depend on the machine.
    torch.set_num_threads(max(1, int(settings.training_cpus_per_worker)))
    catalog, store = catalog_from(settings), store_from(settings)
    with contextlib.closing(catalog):
        try:
            attempt = outlast(
                lambda: load_attempt(catalog, config["job_id"], config["attempt"]),
                "the worker's start",
                limit_s=settings.training_outage_seconds,
            )
        except LeaseLost as error:
            _log.warning("%s", error)
            return
        _log.info("worker %d of %d trains on %s", group.rank, group.world_size, group.device)
        meters = Meters("training")
        with contextlib.ExitStack() as stack:
            if group.is_first:
                announcement = announced(meters, catalog, settings.metrics_host, interval_s=settings.lease_seconds / 4)
                stack.enter_context(announcement)
            try:
                remote = remote_from(settings)
                with permanent_errors_fail_the_job(attempt, catalog):
                    train(
                        attempt,
                        catalog=catalog,
                        store=store,
                        group=group,
                        meters=meters,
                        remote=remote,
                        checkpoints_kept=settings.checkpoints_kept,
                        outage_s=settings.training_outage_seconds,
                    )
            except Exception as error:
                _log.exception("training failed")
                # Ray pickles this exception. One with custom constructor arguments may fail to unpickle.
                raise RuntimeError(f"{type(error).__name__}: {error}") from None
