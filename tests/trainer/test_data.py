"""Training on files: pictures and latents from zips, and what happens when files are broken or have changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray.train import WorkerGroupError

from phema.services.trainer.control import ray_training
from phema.services.trainer.control.driver import drive
from phema.services.trainer.control.terminal_state import finish_job, permanent_errors_fail_the_job
from phema.services.trainer.local_training import claim_locally, train_attempt, train_locally
from phema.services.trainer.training.loop import train
from phema.services.trainer.training.run_checks import verify_dataset
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.datasets import DatasetError
from phema.shared.recipes.run_config import DatasetConfig, RunConfig
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore, S3Options, open_store
from phema.shared.telemetry import Meters
from phema.shared.wiring import remote_from
from tests.datasets.photos import encoded, labelled, npy, photo_files, tiles, write_folder, write_zip
from tests.fixtures.s3 import S3Server
from tests.trainer.support import get_run, snapshots_of, tiny_config


def on_files(path: Path, *, channels: int = 3, **chosen: object) -> RunConfig:
    network = {"img_resolution": 16, "img_channels": channels, "label_dim": 4}
    dataset = {"name": "photos", "path": str(path), "held_out": 4, **chosen}
    every = dict.fromkeys(("snapshot_every", "checkpoint_every", "status_every", "magnitudes_every"), 16)
    return tiny_config(network=network, dataset=dataset, batch_size=8, total_images=32, **every)


def test_a_run_on_a_zip_of_photographs_resumes_bit_for_bit(
    tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore
) -> None:
    """Some of the pictures, mirrored at random, with vectors as labels."""
    files = photo_files(20, 16)[0]
    names = [name for name in files if name.endswith(".png")]
    vectors = {**files, "dataset.json": labelled(names, [[i / 20, 1.0, -0.5, 0.0] for i in range(20)])}
    chosen = {"flip": True, "max_images": 12, "labels": "vectors"}
    config = on_files(write_zip(tmp_path / "photos.zip", vectors), **chosen)
    whole = train_locally(config, local_catalog, local_store, name="whole")
    assert whole.state is JobState.SUCCEEDED
    attempt = claim_locally(config, local_catalog, name="resumed")
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)  # stops after its first step, with a checkpoint
    with local_catalog.transaction() as tx:
        finish_job(tx, attempt)
        assert tx.checkpoints.all_but_latest(attempt.run_id, 0)[-1].num_images == 8
        tx.run_control.resume(attempt.run_id)
        job = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert train_locally(config, local_catalog, local_store, job).state is JobState.SUCCEEDED
    assert snapshots_of(local_catalog, local_store, "resumed") == snapshots_of(local_catalog, local_store, whole.id)


def test_a_run_on_latents_trains(tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore) -> None:
    random = np.random.RandomState(0)
    files = {f"{i % 4}/{i}.npy": npy(np.abs(random.standard_normal((8, 16, 16))).astype(np.float32)) for i in range(12)}
    config = on_files(write_zip(tmp_path / "latents.zip", files), channels=4)
    assert train_locally(config, local_catalog, local_store).state is JobState.SUCCEEDED


def test_a_run_on_a_zip_behind_s3_trains_as_on_the_same_zip_here(
    tmp_path: Path,
    local_catalog: Catalog,
    local_store: ObjectStore,
    s3_options: tuple[str, S3Options],
    s3_server: S3Server,
    s3_bucket: str,
) -> None:
    path = write_zip(tmp_path / "photos.zip", photo_files(20, 16)[0])
    client = s3_server.client()
    client.put_object(Bucket=s3_bucket, Key="data/photos.zip", Body=path.read_bytes())
    client.close()
    here = train_locally(on_files(path), local_catalog, local_store, name="here")
    config = on_files(path).model_copy(
        update={"dataset": DatasetConfig(name="photos", path=f"s3://{s3_bucket}/data/photos.zip", held_out=4)}
    )
    attempt = claim_locally(config, local_catalog, name="there")
    train(
        attempt,
        catalog=local_catalog,
        store=local_store,
        group=WorkerGroup(),
        meters=Meters("training"),
        remote=lambda url: open_store(url, s3=s3_options[1]),
    )
    assert snapshots_of(local_catalog, local_store, "there") == snapshots_of(local_catalog, local_store, here.id)


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, local_catalog: Catalog, local_store: ObjectStore) -> None:
    files, _ = photo_files(20, 16)
    path = write_zip(tmp_path / "photos.zip", files)
    attempt = claim_locally(on_files(path), local_catalog)
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempt.job_id)
    train_attempt(attempt, local_catalog, local_store)
    write_zip(path, {**files, "00000/img00000003.png": encoded(tiles(21, 16)[20])})
    with pytest.raises(DatasetError, match=r"the run's dataset has changed since image 8: .* or start a new run"):
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
        verify_dataset(attempt.config, remote_from(Settings(state_dir=tmp_path)))


def test_one_broken_picture_among_many_is_found(tmp_path: Path, local_catalog: Catalog) -> None:
    files, _ = photo_files(20, 16)
    files["00000/img00000013.png"] = files["00000/img00000013.png"][:-40]
    attempt = claim_locally(on_files(write_zip(tmp_path / "photos.zip", files)), local_catalog)
    with pytest.raises(DatasetError, match=r"00000/img00000013\.png in dataset .* cannot be read"):
        verify_dataset(attempt.config, remote_from(Settings(state_dir=tmp_path)))


def test_a_job_with_a_broken_dataset_is_not_tried_again(tmp_path: Path, local_catalog: Catalog) -> None:
    attempt = claim_locally(on_files(write_folder(tmp_path / "photos", {})), local_catalog)
    assert drive(local_catalog, Settings(state_dir=tmp_path), attempt.job_id, attempt.fence) == 0
    job = get_run(local_catalog, attempt.run_id).job
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.startswith(f"dataset {tmp_path / 'photos'} holds no pictures")


@pytest.mark.parametrize(
    ("raised", "state"),
    [(DatasetError("b.png in dataset /x cannot be read: it is"), JobState.FAILED), (OSError("b"), JobState.QUEUED)],
)
def test_a_worker_that_meets_a_broken_picture_ends_the_job(
    tmp_path: Path, local_catalog: Catalog, monkeypatch: pytest.MonkeyPatch, raised: Exception, state: JobState
) -> None:
    """The worker ends the job itself, because Ray would restart the workers and report the error only as text."""
    attempt = claim_locally(on_files(write_zip(tmp_path / "photos.zip", photo_files(20, 16)[0])), local_catalog)

    def train_on_ray(*arguments: object) -> None:
        try:
            with permanent_errors_fail_the_job(attempt, local_catalog):
                raise raised
        except Exception as error:
            raise WorkerGroupError("Training failed", {0: RuntimeError(f"{type(error).__name__}: {error}")}) from None

    monkeypatch.setattr(ray_training, "train_on_ray", train_on_ray)
    assert drive(local_catalog, Settings(state_dir=tmp_path), attempt.job_id, attempt.fence) == 0
    job = get_run(local_catalog, attempt.run_id).job
    assert job.state is state
    assert str(raised) in str(job.error)
