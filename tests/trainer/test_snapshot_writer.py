"""The background thread writes in order, with the fence, and only what is not stored yet."""

from __future__ import annotations

import copy
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.local_training import claim_locally, train_attempt
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.snapshot_writer import SnapshotWriter
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, LeaseLost
from phema.shared.datasets import open_dataset
from phema.shared.snapshots import ObjectInfo, ObjectStore, StoreDenied, StoreUnreachable
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.telemetry import Meters
from tests.trainer.support import new_store, tiny_config, wait_until

CONFIG = tiny_config(snapshot_every=16, checkpoint_every=16, lr_rampup_images=0)


class Flaky(LocalStore):
    """A real store whose uploads fail: each for the first `failures` tries, with `error`."""

    def __init__(self, folder: Path, error: Exception, failures: int) -> None:
        super().__init__(folder)
        self.error, self.failures = error, failures
        self.tries: dict[str, int] = {}

    def put(self, key: str, data: Any) -> ObjectInfo:
        self.tries[key] = self.tries.get(key, 0) + 1
        if self.tries[key] <= self.failures:
            raise self.error
        return super().put(key, data)


@pytest.fixture
def attempt(local_catalog: Catalog) -> TrainingAttempt:
    return claim_locally(CONFIG, local_catalog)


@pytest.fixture
def steps() -> Iterator[TrainingState]:
    """Yields the state after each step."""

    def endless() -> Iterator[TrainingState]:
        state = TrainingState(CONFIG, torch.device("cpu"))
        batches = Batches(open_dataset(CONFIG.dataset), CONFIG, WorkerGroup())
        while True:
            train_step(state, batches.at(state.num_images), CONFIG, WorkerGroup())
            yield state

    return endless()


def snapshot_writer(
    attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore, meters: Meters | None = None
) -> SnapshotWriter:
    return SnapshotWriter(attempt, catalog=catalog, store=store, meters=meters or Meters("training"))


@pytest.mark.parametrize("healthy", [0, 1, 2])
def test_a_checkpoint_never_precedes_a_snapshot(
    healthy: int, attempt: TrainingAttempt, local_catalog: Catalog, tmp_path: Path, steps: Iterator[TrainingState]
) -> None:
    """If the store fails after `healthy` uploads, there is no checkpoint, so no resumed run skips a snapshot."""

    class Closed(LocalStore):
        left = healthy

        def put(self, key: str, data: Any) -> ObjectInfo:
            if not key.endswith("run.json"):
                if self.left == 0:
                    raise StoreDenied("the store refuses")
                self.left -= 1
            return super().put(key, data)

    state = next(steps)
    with pytest.raises(StoreDenied), snapshot_writer(attempt, local_catalog, Closed(tmp_path / "store")) as writer:
        writer.write_due(state)
    with local_catalog.transaction() as tx:
        assert len(tx.snapshots.list(attempt.run_id)) == healthy
        assert tx.checkpoints.latest(attempt.run_id) is None


def test_uploads_are_retried_while_the_store_is_unreachable(
    attempt: TrainingAttempt, local_catalog: Catalog, tmp_path: Path, steps: Iterator[TrainingState]
) -> None:
    meters = Meters("training")
    store = Flaky(tmp_path / "store", StoreUnreachable("the store does not answer"), failures=1)
    labels = {"run_id": attempt.run_id}
    value = meters.registry.get_sample_value
    with snapshot_writer(attempt, local_catalog, store, meters) as writer:
        for kind in ("snapshot", "checkpoint"):  # an alert needs the series before the first upload
            assert value("phema_upload_seconds_count", {**labels, "kind": kind}) == 0
        writer.write_due(next(steps))
    with local_catalog.transaction() as tx:
        assert len(tx.snapshots.list(attempt.run_id)) == 2
        assert tx.checkpoints.latest(attempt.run_id) is not None
    assert value("phema_upload_retries_total", {**labels, "cause": "store"}) == 4
    assert value("phema_snapshots_uploaded_total", labels) == 2
    assert value("phema_checkpoints_uploaded_total", labels) == 1
    assert value("phema_uploads_pending", labels) == 0
    assert value("phema_upload_seconds_count", {**labels, "kind": "snapshot"}) == 2


def test_a_full_disk_shows_in_the_run_until_there_is_room(
    attempt: TrainingAttempt, local_catalog: Catalog, local_store: ObjectStore, steps: Iterator[TrainingState]
) -> None:
    """No file of this process may grow beyond a megabyte, which a checkpoint needs: as on a full disk."""

    def trouble() -> str | None:
        with local_catalog.transaction(read_only=True) as tx:
            return tx.jobs.get(attempt.job_id).trouble

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, highest))
    try:
        with snapshot_writer(attempt, local_catalog, local_store) as writer:
            writer.write_due(next(steps))
            said = wait_until(trouble, "the run's trouble", 60)
            writer.check()
            resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))
        signal.signal(signal.SIGXFSZ, handler)
    assert f"an upload is tried again: store {local_store.url} is full: it could not write" in said
    assert trouble() is None
    with local_catalog.transaction(read_only=True) as tx:
        assert tx.checkpoints.latest(attempt.run_id) is not None


def test_a_wait_for_uploads_is_counted_while_it_lasts(
    attempt: TrainingAttempt, local_catalog: Catalog, tmp_path: Path, steps: Iterator[TrainingState]
) -> None:
    """If the store accepts nothing, the loop waits at the third snapshot time, and the metric grows every second."""
    stored = threading.Event()

    class Stuck(LocalStore):
        def put(self, key: str, data: Any) -> ObjectInfo:
            stored.wait()
            return super().put(key, data)

    meters, labels = Meters("training"), {"run_id": attempt.run_id}

    def value(name: str) -> float:
        return meters.registry.get_sample_value(name, labels) or 0.0

    states = [copy.deepcopy(next(steps)) for _ in range(2)]
    with snapshot_writer(attempt, local_catalog, Stuck(tmp_path / "store"), meters) as writer:
        keeping = threading.Thread(target=lambda: [writer.write_due(state) for state in states])
        keeping.start()
        try:
            wait_until(lambda: value("phema_snapshot_stall_seconds_total") >= 1, "a second", 60)
            before = value("phema_snapshot_stall_seconds_total")
            wait_until(lambda: value("phema_snapshot_stall_seconds_total") > before, "another", 60)
            assert keeping.is_alive()
            assert value("phema_uploads_pending") == 6
        finally:
            stored.set()
            keeping.join()
    assert value("phema_uploads_pending") == 0


def test_rows_are_fenced(
    attempt: TrainingAttempt, local_catalog: Catalog, local_store: ObjectStore, steps: Iterator[TrainingState]
) -> None:
    with local_catalog.transaction() as tx:
        tx.leases.release(attempt.job_id, attempt.fence)
    with pytest.raises(LeaseLost), snapshot_writer(attempt, local_catalog, local_store) as writer:
        writer.write_due(next(steps))
    with local_catalog.transaction() as tx:
        assert tx.snapshots.list(attempt.run_id) == []


def test_a_registered_snapshot_is_not_written_again(
    attempt: TrainingAttempt, local_catalog: Catalog, tmp_path: Path, steps: Iterator[TrainingState]
) -> None:
    state = next(steps)
    with snapshot_writer(attempt, local_catalog, new_store(tmp_path)) as writer:
        writer.write_due(state)
    counting = Flaky(tmp_path / "store", StoreDenied(""), failures=0)
    with snapshot_writer(attempt, local_catalog, counting) as writer:
        writer.write_due(state)
    assert [key.split("/")[2] for key in counting.tries] == ["run.json", "checkpoints"]


def test_the_metrics_equal_the_history_in_the_catalog(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """The metrics of a whole run, as Prometheus would scrape them at its end."""
    from phema.services.trainer.training.loop import train

    config = tiny_config()
    attempt = claim_locally(config, local_catalog)
    meters = Meters("training")
    train(attempt, catalog=local_catalog, store=local_store, group=WorkerGroup(), meters=meters)
    value, labels = meters.registry.get_sample_value, {"run_id": attempt.run_id}
    with local_catalog.transaction() as tx:
        last = tx.history.list(attempt.run_id).items[-1].values
        rows = tx.snapshots.list(attempt.run_id)
    assert value("phema_training_images", labels) == value("phema_training_total_images", labels) == 320
    assert value("phema_training_loss", labels) == last["loss"]
    assert value("phema_training_denoising_loss", labels) == last["denoising_loss"]
    assert value("phema_training_learning_rate", labels) == last["learning_rate"]
    assert value("phema_training_info", {**labels, "name": "local"}) == 1
    assert value("phema_training_devices", {**labels, "device": "cpu"}) == 1
    assert value("phema_training_memory_bytes", {**labels, "device": "cpu"}) > 1e8
    for part in ("data", "forward_backward", "optimizer", "ema", "snapshot"):
        assert value("phema_training_step_seconds", {**labels, "part": part}) == last[f"step_seconds/{part}"] > 0
    assert value("phema_uploads_pending", labels) == 0
    assert value("phema_upload_retries_total", {**labels, "cause": "store"}) == 0
    assert value("phema_training_nonfinite_gradients_total", labels) == 0
    assert value("phema_snapshot_bytes_total", labels) == sum(row.size for row in rows)
    bucket = {**labels, "weights": "ema", "side": "dec", "resolution": "4", "statistic": "mean"}
    assert value("phema_activation_magnitude", bucket) == last["activation/dec/4/mean"]
    assert value("phema_weight_magnitude", bucket) == last["weight/dec/4/mean"]


def test_a_status_does_not_change_what_is_trained(local_catalog: Catalog, local_store: ObjectStore) -> None:
    """Measuring magnitudes replaces the network's weights; all of them must be restored."""
    from tests.trainer.support import snapshots_of

    results = []
    for name, every in (("often", 16), ("once", 320)):
        attempt = claim_locally(tiny_config(status_every=every, network={"dropout": 0.1}), local_catalog, name=name)
        train_attempt(attempt, local_catalog, local_store)
        with local_catalog.transaction() as tx:
            tx.leases.succeed(attempt.job_id, attempt.fence)
        results.append(snapshots_of(local_catalog, local_store, name))
    assert results[0] == results[1]
