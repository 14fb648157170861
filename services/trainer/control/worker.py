"""One worker of an attempt: the training loop with its threads, its metrics, and its permanent errors."""

from __future__ import annotations

import contextlib
import logging

import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.terminal_state import permanent_errors_fail_the_job, request_release
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.service_runtime.metrics_announcement import announced
from phema.shared.settings import Settings
from phema.shared.telemetry import Meters
from phema.shared.wiring import remote_from, store_from

_log = logging.getLogger(__name__)


def train_as_worker(
    attempt: TrainingAttempt, catalog: Catalog, settings: Settings, group: WorkerGroup, notice: EndNotice
) -> None:
    """Train in this process, from the run's latest checkpoint, until the run ends. Raises what the loop raises.

    The first worker of the group serves the run's metrics. If the training stops because of a notice, it tells the
    driver through the job's row that the job should be handed back.
    """
    # CPU kernels sum in an order that depends on the number of threads, which must not depend on the machine.
    torch.set_num_threads(max(1, int(settings.training_cpus_per_worker)))
    _log.info("worker %d of %d trains on %s", group.rank, group.world_size, group.device)
    meters = Meters("training")
    with contextlib.ExitStack() as stack:
        if group.is_first:
            announcement = announced(meters, catalog, settings.metrics_host, interval_s=settings.lease_seconds / 4)
            stack.enter_context(announcement)
        stack.enter_context(permanent_errors_fail_the_job(attempt, catalog))
        store, remote = store_from(settings), remote_from(settings)
        stopped = train(
            attempt,
            catalog=catalog,
            store=store,
            group=group,
            meters=meters,
            remote=remote,
            checkpoints_kept=settings.checkpoints_kept,
            outage_s=settings.training_outage_seconds,
            nonfinite_steps=settings.training_nonfinite_steps,
            notice=notice,
        )
        if stopped and group.is_first:
            _log.warning("the process or its machine ends soon: the run stopped after a checkpoint")
            request_release(attempt, catalog, settings.training_stop_seconds)
