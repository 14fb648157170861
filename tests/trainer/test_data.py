"""Training on files: real pictures and latents, from zips, and what happens when they are not what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.trainer.driver import check_data
from services.trainer.local import claim_locally, train_attempt, train_locally
from services.trainer.outcome import conclude
from shared.catalog import Catalog, JobKind, JobState
from shared.datasets import DatasetError
from shared.recipes.config import RunConfig
from shared.settings import Settings
from shared.snapshots import ObjectStore
from tests.datasets.photos import encoded, npy, photo_files, tiles, write_folder, write_zip
from tests.trainer.support import snapshots_of, tiny_config


def on_files(path: Path, *, channels: int = 3) -> RunConfig:
    network = {"img_resolution": 16, "img_channels": channels, "label_dim": 4}
    dataset = {"name": "photos", "path": str(path), "held_out": 4}
    every = dict.fromkeys(("snapshot_every", "checkpoint_every", "status_every", "magnitudes_every"), 16)
    return tiny_config(network=network, dataset=dataset, batch_size=8, total_images=32, **every)


def test_a_run_on_a_zip_of_photographs_resumes_bit_for_bit(
    tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore
) -> None:
    config = on_files(write_zip(tmp_path / "photos.zip", photo_files(20, 16)[0]))
    whole = train_locally(config, local_catalog, local_store, name="whole")
    assert whole.state is JobState.SUCCEEDED
    attempt = claim_locally(config, local_catalog, name="resumed")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)  # stops at its first status, with a checkpoint
    with local_catalog.transaction() as tx:
        conclude(tx, attempt)
        assert tx.checkpoints.beyond(attempt.run_id, 0)[-1].num_images == 16
        tx.runs.resume(attempt.run_id)
        job = tx.jobs.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert train_locally(config, local_catalog, local_store, job).state is JobState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "resumed") == snapshots_of(local_catalog, local_store, whole.id)


def test_a_run_on_latents_trains(tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore) -> None:
    random = np.random.RandomState(0)
    files = {f"{i % 4}/{i}.npy": npy(np.abs(random.standard_normal((8, 16, 16))).astype(np.float32)) for i in range(12)}
    config = on_files(write_zip(tmp_path / "latents.zip", files), channels=4)
    assert train_locally(config, local_catalog, local_store).state is JobState.SUCCEEDED


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore) -> None:
    files, _ = photo_files(20, 16)
    path = write_zip(tmp_path / "photos.zip", files)
    attempt = claim_locally(on_files(path), local_catalog)
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)
    write_zip(path, {**files, "00000/img00000003.png": encoded(tiles(21, 16)[20])})
    with pytest.raises(DatasetError, match=r"the run's dataset has changed since image 16: .* or start a new run"):
        train_attempt(attempt, local_catalog, local_store)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {f"{i % 4}/{i}.png": encoded(tiles(1, 8)[0]) for i in range(8)},
            "network.img_resolution is 16, but the pictures of photos need 8",
        ),
        (
            {f"{i}/a.png": encoded(tiles(1, 16)[0]) for i in range(5)},
            "network.label_dim is 4, but photos has 5 classes",
        ),
        (
            {f"{i}/a.png": encoded(tiles(1, 16)[0]) for i in range(4)},
            "dataset.held_out is 4, but photos has 4 pictures",
        ),
        ({f"{i % 4}/{i}.png": b"x" for i in range(8)}, r"0/0\.png in dataset .* it is neither PNG nor JPEG"),
        ({}, "photos holds no pictures"),
    ],
)
def test_files_are_checked_before_training(
    tmp_path: Path, local_catalog: Catalog, files: dict[str, bytes], sentence: str
) -> None:
    attempt = claim_locally(on_files(write_folder(tmp_path / "photos", files)), local_catalog)
    with pytest.raises(DatasetError, match=sentence):
        check_data(attempt, Settings(state_dir=tmp_path))


def test_one_broken_picture_among_many_is_found(tmp_path: Path, local_catalog: Catalog) -> None:
    files, _ = photo_files(20, 16)
    files["00000/img00000013.png"] = files["00000/img00000013.png"][:-40]
    attempt = claim_locally(on_files(write_zip(tmp_path / "photos.zip", files)), local_catalog)
    with pytest.raises(DatasetError, match=r"00000/img00000013\.png in dataset .* cannot be read"):
        check_data(attempt, Settings(state_dir=tmp_path))
