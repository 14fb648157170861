"""The training loop of one worker. Its only clock is the number of images seen."""

from __future__ import annotations

import contextlib

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.cancellation import Cancellation
from phema.services.trainer.training.checkpoint import resume
from phema.services.trainer.training.measurements.status_reporter import StatusReporter
from phema.services.trainer.training.precision import check_precision
from phema.services.trainer.training.run_checks import check_same_dataset, open_matching_dataset
from phema.services.trainer.training.snapshot_writer import CHECKPOINTS_KEPT, OUTAGE_SECONDS, SnapshotWriter
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.datasets import OpenRemote
from phema.shared.datasets.prefetch import Prefetcher
from phema.shared.edm2.device import prepare_device
from phema.shared.snapshots import ObjectStore
from phema.shared.telemetry import Meters

BATCHES_AHEAD = 3
"""Batches that are prepared before the step needs them."""
READERS = 2
"""Threads that read pictures, draw noise and copy both to the device."""


def train(
    attempt: TrainingAttempt,
    *,
    catalog: Catalog,
    store: ObjectStore,
    group: WorkerGroup,
    meters: Meters,
    remote: OpenRemote | None = None,
    checkpoints_kept: int = CHECKPOINTS_KEPT,
    outage_s: float = OUTAGE_SECONDS,
) -> None:
    """Train the run from its latest checkpoint to its end, or to the first step after a cancel is seen.

    Every worker of the group must call it; only the first one reads and writes checkpoints and snapshots. `remote`
    opens datasets on S3. The run keeps its latest `checkpoints_kept` checkpoints, and pinned ones. On return all
    snapshots and checkpoints are durable and registered, and the history is complete. Raises LeaseLost when another
    attempt has taken over, UnsupportedPrecision, DatasetError, CheckpointError, and the errors of store and catalog
    when these are away for longer than `outage_s`.
    """
    config = attempt.config
    with contextlib.ExitStack() as stack:
        cancellation = stack.enter_context(Cancellation(attempt, catalog, group))
        # Before anything that may hang, so that the metrics of a run that hangs already exist.
        status = StatusReporter(attempt, catalog=catalog, group=group, meters=meters)
        check_precision(config, group.device.type)
        dataset = open_matching_dataset(config, remote)
        prepare_device(group.device)
        check_same_dataset(dataset.info.fingerprint, config.dataset, group)
        state = TrainingState(config, group.device, dataset=dataset.info.fingerprint)
        resume(state, attempt, catalog=catalog, store=store, group=group)
        status.start(state.num_images)
        batches = stack.enter_context(
            Prefetcher(
                Batches(dataset, config, group).at, config.batch_size, BATCHES_AHEAD, READERS, end=config.total_images
            )
        )
        writer = None
        if group.is_first:
            # Runs after the writer has stored everything, and not after an error.
            stack.push(lambda kind, *_: status.finish(outage_s) if kind is None else None)
            writer = stack.enter_context(
                SnapshotWriter(
                    attempt,
                    catalog=catalog,
                    store=store,
                    meters=meters,
                    checkpoints_kept=checkpoints_kept,
                    outage_s=outage_s,
                )
            )
        while state.num_images < config.total_images:
            status.stopwatch.begin()
            batch = batches.at(state.num_images)
            status.stopwatch.lap("data")
            status.add(train_step(state, batch, config, group, status.stopwatch), state.num_images)
            if writer is not None:
                writer.check()
                if writer.is_due(state.num_images):
                    with status.stopwatch.snapshot():
                        writer.write_due(state)
            if status.is_due(state.num_images):
                status.publish(state, batch, batches.waited_seconds)
            if cancellation.stop_now():
                if writer is not None:
                    status.record(state.num_images)
                    writer.write_checkpoint(state)
                break
