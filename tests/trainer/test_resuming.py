"""A checkpoint is read once, by the first worker, and never whole in memory as bytes; which checkpoints are kept."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
import torch

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.local_training import claim_locally
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.checkpoint import copy_to_cpu, encode_checkpoint, resume
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.datasets import open_dataset
from phema.shared.snapshots import ObjectStore, open_store
from phema.shared.snapshots.stores.object_keys import checkpoint_key
from phema.shared.snapshots.stores.options import S3Options
from phema.shared.telemetry import Meters
from tests.trainer.support import checkpoint_times, tiny_config
from tests.trainer.test_checkpoint import flat
from tests.trainer.test_worker_group import train_in_two


def trained(attempt: TrainingAttempt, steps: int) -> TrainingState:
    state = TrainingState(attempt.config, torch.device("cpu"))
    batches = Batches(open_dataset(attempt.config.dataset), attempt.config, WorkerGroup())
    for _ in range(steps):
        train_step(state, batches.at(state.num_images), attempt.config, WorkerGroup())
    return state


def store_checkpoint(
    data: memoryview, num_images: int, attempt: TrainingAttempt, catalog: Catalog, store: ObjectStore
) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    info = store.put(checkpoint_key(attempt.run_id, num_images=num_images, sha256=sha256), data)
    with catalog.transaction() as tx:
        tx.checkpoints.add(run_id=attempt.run_id, num_images=num_images, key=info.key, size=info.size, sha256=sha256)


@pytest.fixture
def s3_store(s3_options: tuple[str, S3Options]) -> ObjectStore:
    url, options = s3_options
    return open_store(url, s3=options)


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue("local_store" if request.param == "folder" else "s3_store")


def test_a_checkpoint_is_never_whole_in_memory_as_bytes(local_catalog: Catalog, any_store: ObjectStore) -> None:
    """Neither when it is written nor when it is loaded: Python's memory holds less than half of the file."""
    attempt = claim_locally(tiny_config(network={"model_channels": 96}), local_catalog)
    state = trained(attempt, 1)
    copied = copy_to_cpu(state.state_dict())
    tracemalloc.start()
    try:
        data = encode_checkpoint(copied, attempt)
        written = tracemalloc.get_traced_memory()[1]
        store_checkpoint(data, 16, attempt, local_catalog, any_store)
        restored = TrainingState(attempt.config, torch.device("cpu"))
        tracemalloc.reset_peak()
        resume(restored, attempt, catalog=local_catalog, store=any_store, group=WorkerGroup())
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) > 60 * 2**20
    assert written < len(data) / 2
    assert read < len(data) / 2
    before, now = flat(state.state_dict()), flat(restored.state_dict())
    assert before.keys() == now.keys()
    for path, value in before.items():
        assert torch.equal(value, now[path]) if isinstance(value, torch.Tensor) else value == now[path], path


@pytest.mark.timeout(600)
def test_only_the_first_worker_reads_the_checkpoint(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """The second worker sees an empty store. Killed and resumed, both end with the weights of a run in one go."""
    config = tiny_config(num_workers=2, total_images=32, snapshot_every=16, checkpoint_every=16, status_every=32)
    whole, resumed = (claim_locally(config, local_catalog, name=name) for name in ("whole", "resumed"))
    (first, second) = train_in_two([whole], tmp_path)
    assert first == second
    with local_catalog.transaction() as tx:
        rows = tx.checkpoints.all_but_latest(whole.run_id, 0)
        (_, latest) = rows
        tx.checkpoints.delete(latest.id)
    half = TrainingState(config, torch.device("cpu"), dataset=open_dataset(config.dataset).info.fingerprint)
    resume(half, whole, catalog=local_catalog, store=local_store, group=WorkerGroup())
    assert half.num_images == 16
    data = encode_checkpoint(copy_to_cpu(half.state_dict()), resumed)
    store_checkpoint(data, 16, resumed, local_catalog, local_store)
    (tmp_path / "meeting").unlink(missing_ok=True)
    ends = train_in_two([resumed], tmp_path, stores=("store", "nothing"))
    assert ends == [first, second]


def test_the_latest_and_the_pinned_checkpoints_are_kept(local_catalog: Catalog, local_store: ObjectStore) -> None:
    attempt = claim_locally(tiny_config(total_images=480, checkpoint_every=80), local_catalog)
    meters = Meters("training")
    train(attempt, catalog=local_catalog, store=local_store, group=WorkerGroup(), meters=meters, checkpoints_kept=5)
    assert checkpoint_times(local_catalog, attempt.run_id) == [160, 240, 320, 400, 480]
    with local_catalog.transaction() as tx:
        tx.checkpoints.set_pinned(attempt.run_id, 160, True)
        for row in tx.checkpoints.all_but_latest(attempt.run_id, 0):
            if row.num_images > 320:  # as if the run had been killed there
                tx.checkpoints.delete(row.id)
    train(attempt, catalog=local_catalog, store=local_store, group=WorkerGroup(), meters=meters)
    assert checkpoint_times(local_catalog, attempt.run_id) == [160, 400, 480]
    with local_catalog.transaction() as tx:
        known = {row.key for row in tx.checkpoints.all_but_latest(attempt.run_id, 0)}
        assert tx.deletions.keys() == set()
    assert {info.key for info in local_store.list(f"runs/{attempt.run_id}/checkpoints/")} == known
