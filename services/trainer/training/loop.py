"""The training loop of one worker. Its only clock is the number of images seen."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from contextlib import nullcontext

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.training.batches import Batch, Batches
from phema.services.trainer.training.cancellation import Cancellation
from phema.services.trainer.training.checkpoint import resume
from phema.services.trainer.training.end_notice import EndNotice
from phema.services.trainer.training.failures import (
    fitting_batch,
    is_out_of_memory,
    network_does_not_fit,
    out_of_memory,
)
from phema.services.trainer.training.measurements.status_reporter import StatusReporter
from phema.services.trainer.training.nonfinite_steps import NONFINITE_STEPS, NonfiniteSteps
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
from phema.shared.recipes.run_config import RunConfig
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
    nonfinite_steps: int = NONFINITE_STEPS,
    notice: EndNotice | None = None,
) -> bool:
    """Train the run from its latest checkpoint to its end, or to the first step after a cancel or `notice` is seen.

    Returns whether it stopped because of the notice: a process of the group ends soon, and another attempt goes on.

    Every worker of the group must call it; only the first one reads and writes checkpoints and snapshots. `remote`
    opens datasets on S3. The run keeps its latest `checkpoints_kept` checkpoints, and pinned ones. On return all
    snapshots and checkpoints are durable and registered, and the history is complete. Raises LeaseLost when another
    attempt has taken over, UnsupportedPrecision, DatasetError, CheckpointError, OutOfMemory if not even the first
    step fits, NotFinite after `nonfinite_steps` steps in a row without finite gradients, and the errors of store and
    catalog when these are away for longer than `outage_s`. A cancelled run does not wait so long for a store (see
    `SnapshotWriter.hurry`).
    """
    config = attempt.config
    with contextlib.ExitStack() as stack:
        cancellation = stack.enter_context(Cancellation(attempt, catalog, group, notice))
        # Before anything that may hang, so that the metrics of a run that hangs already exist.
        status = StatusReporter(attempt, catalog=catalog, group=group, meters=meters)
        check_precision(config, group.device.type)
        dataset = open_matching_dataset(config, remote)
        prepare_device(group.device)
        check_same_dataset(dataset.info.fingerprint, config.dataset, group)
        state = _new_state(config, group, dataset.info.fingerprint)
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
            cancellation.on_request(writer.hurry)
        nonfinite = NonfiniteSteps(config, group.device, nonfinite_steps)
        began_at = state.num_images
        while state.num_images < config.total_images:
            status.stopwatch.begin()
            batch = batches.at(state.num_images)
            status.stopwatch.lap("data")
            with _first_step_fits(state, batch, config, group) if state.num_images == began_at else nullcontext():
                figures = train_step(state, batch, config, group, status.stopwatch)
            status.add(figures, state.num_images)
            nonfinite.add(figures)
            if writer is not None:
                writer.check()
                if writer.is_due(state.num_images):
                    with status.stopwatch.snapshot():
                        writer.write_due(state)
            if status.is_due(state.num_images):
                status.publish(state, batch, batches.waited_seconds)
                nonfinite.check(state.num_images)
            if cancellation.stop_now():
                if writer is not None:
                    status.record(state.num_images)
                    writer.write_checkpoint(state)
                break
    return cancellation.stopped_by_notice


def _new_state(config: RunConfig, group: WorkerGroup, fingerprint: str) -> TrainingState:
    """Raises OutOfMemory."""
    try:
        return TrainingState(config, group.device, dataset=fingerprint)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise network_does_not_fit(group.device) from error


@contextlib.contextmanager
def _first_step_fits(state: TrainingState, batch: Batch, config: RunConfig, group: WorkerGroup) -> Iterator[None]:
    """Turn a lack of memory in the first step of an attempt into OutOfMemory, with what would fit.

    A later step needs no more memory than the first one. If it fails, something else has taken memory on the device
    meanwhile, and another attempt can help.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
        raise out_of_memory(config, group.device, fitting_batch(state, batch, config)) from None
