"""Checks made before a run trains: its dataset, and that all workers see the same one."""

from __future__ import annotations

import hashlib

from phema.services.trainer.training.worker_group import WorkerGroup, WorkerGroupMismatch
from phema.shared.datasets import Dataset, DatasetError, OpenRemote, check_dataset, open_dataset
from phema.shared.recipes.run_config import DatasetConfig, RunConfig


def open_matching_dataset(config: RunConfig, remote: OpenRemote | None) -> Dataset:
    """Open the run's dataset and check that the run's network fits it; `remote` opens datasets on S3.

    Raises DatasetError, and SnapshotError when S3 cannot be read.
    """
    check_dataset(config.dataset, config.network)
    dataset = open_dataset(config.dataset, remote=remote)
    dataset.check(config.network)
    return dataset


def verify_dataset(config: RunConfig, remote: OpenRemote | None) -> None:
    """Open the run's dataset and decode a sample of its pictures. Raises like `open_matching_dataset`."""
    open_matching_dataset(config, remote).verify()


def check_same_dataset(fingerprint: str, choice: DatasetConfig, group: WorkerGroup) -> None:
    """Raises DatasetError on every worker unless all have opened the same dataset. Every worker must call it.

    A path that exists on every machine may hold other files on one of them; each worker would train on its own.
    """
    digest = hashlib.sha256(fingerprint.encode()).digest()
    try:
        group.check_same(int.from_bytes(digest[:6]), "datasets")
    except WorkerGroupMismatch as error:
        raise DatasetError(
            f"dataset.path {choice.path} does not hold the same files for every worker; "
            "give each machine the same files, or one path that all can reach"
        ) from error
