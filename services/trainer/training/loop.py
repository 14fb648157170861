"""The training loop of one worker. Its clock is images seen; all that it does is decided by the clock."""

from __future__ import annotations

import contextlib
import hashlib

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.cancellation import Cancellation
from phema.services.trainer.training.checkpoint import resume
from phema.services.trainer.training.measurements.status_reporter import StatusReporter
from phema.services.trainer.training.run_checks import check_precision
from phema.services.trainer.training.snapshot_writer import SnapshotWriter
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup, WorkerGroupMismatch
from phema.shared.catalog import Catalog
from phema.shared.datasets import DatasetError, OpenRemote, check_dataset, open_dataset
from phema.shared.datasets.prefetch import Prefetcher
from phema.shared.edm2.device import prepare_device
from phema.shared.recipes.run_config import DatasetConfig
from phema.shared.snapshots import ObjectStore
from phema.shared.telemetry import Meters

BATCHES_AHEAD = 3
READERS = 2
"""Batches that wait for the step, and threads that read, draw noise and copy them to the device."""


def train(
    attempt: TrainingAttempt,
    *,
    catalog: Catalog,
    store: ObjectStore,
    group: WorkerGroup,
    meters: Meters,
    remote: OpenRemote | None = None,
) -> None:
    """Train the run from its latest checkpoint to its end, or to the step in which a cancel is seen.

    Every worker of the group calls it; the first one writes; `remote` opens datasets behind S3. On return all
    snapshots and checkpoints are durable and registered. Raises LeaseLost when another attempt has taken over,
    UnsupportedPrecision, DatasetError, CheckpointError, and what the store and the catalog raise when they stay away.
    """
    config = attempt.config
    with contextlib.ExitStack() as stack:
        cancel = stack.enter_context(Cancellation(attempt, catalog, group))
        status = StatusReporter(attempt, catalog=catalog, group=group, meters=meters)
        check_precision(config, group.device.type)
        check_dataset(config.dataset, config.network)
        dataset = open_dataset(config.dataset, remote=remote)
        dataset.check(config.network)
        prepare_device(group.device)
        check_same_dataset(dataset.facts.fingerprint, config.dataset, group)
        state = TrainingState(config, group.device, dataset=dataset.facts.fingerprint)
        resume(state, attempt, catalog=catalog, store=store, group=group)
        read = Batches(dataset, config, group).at
        status.start(state.num_images)
        batches = stack.enter_context(
            Prefetcher(read, config.batch_size, BATCHES_AHEAD, READERS, end=config.total_images)
        )
        archive = None
        if group.is_first:
            archive = stack.enter_context(SnapshotWriter(attempt, catalog=catalog, store=store, meters=meters))
        while state.num_images < config.total_images:
            status.watch.begin()
            batch = batches.at(state.num_images)
            status.watch.lap("data")
            status.add(train_step(state, batch, config, group, status.watch), state.num_images)
            if archive is not None and archive.due(state.num_images):
                with status.watch.snapshot():
                    archive.keep(state)
            if status.due(state.num_images):
                status.publish(state, batch, batches.waited_seconds)
            if cancel.obeyed():
                if archive is not None:
                    status.record(state.num_images)
                    archive.leave(state)
                break


def check_same_dataset(fingerprint: str, choice: DatasetConfig, group: WorkerGroup) -> None:
    """Every worker calls it. Raises DatasetError on all of them unless all have opened the same dataset.

    A path that every machine has may hold other files on one of them; each would learn from its own.
    """
    digest = hashlib.sha256(fingerprint.encode()).digest()
    try:
        group.check_same(int.from_bytes(digest[:6]), "datasets")
    except WorkerGroupMismatch as error:
        raise DatasetError(
            f"dataset.path {choice.path} does not hold the same files for every worker; "
            "give each machine the same files, or one path that all can reach"
        ) from error
