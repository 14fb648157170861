"""Why attempts fail: the cause, whether another attempt follows, and a sentence that says what to change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import WorkerGroupError

from phema.services.trainer.control.driver import drive
from phema.services.trainer.control.failure_causes import (
    Failure,
    cause_of_lost_driver,
    failure_of,
    root_cause,
    write_failure,
)
from phema.services.trainer.control.ray_jobs import RayJob
from phema.services.trainer.control.worker_resources import CannotTrain
from phema.services.trainer.local_training import claim_locally
from phema.services.trainer.training.checkpoint import CheckpointError
from phema.shared.catalog import Catalog, CatalogUnreachable, FailureCause, Job, JobKind, JobState
from phema.shared.datasets import DatasetError
from phema.shared.settings import Settings
from phema.shared.snapshots import CorruptObject, StoreFull, StoreUnreachable
from tests.trainer.support import get_run, tiny_config

CAUSE = FailureCause


class NodeDiedError(Exception):
    """As Ray's, by its name."""


@pytest.mark.parametrize(
    ("error", "cause", "retry"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), CAUSE.OUT_OF_MEMORY, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), CAUSE.OUT_OF_MEMORY, True),
        (MemoryError(), CAUSE.OUT_OF_MEMORY, True),
        (RuntimeError("Task was killed due to the node running low on memory."), CAUSE.OUT_OF_MEMORY, True),
        (DatasetError("dataset.path /x does not exist"), CAUSE.DATA, False),
        (CorruptObject("checkpoint 5 is damaged"), CAUSE.DATA, True),
        (CheckpointError("another run's checkpoint"), CAUSE.CONFIGURATION, False),
        (CannotTrain("precision float16 needs a GPU"), CAUSE.CONFIGURATION, False),
        (StoreUnreachable("the bucket does not answer"), CAUSE.STORE_AWAY, True),
        (StoreFull("no room on the disk"), CAUSE.STORE_AWAY, True),
        (CatalogUnreachable("postgresql://", "it does not answer"), CAUSE.CATALOG_AWAY, True),
        (NodeDiedError("the node is gone"), CAUSE.LOST_NODE, True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), CAUSE.LOST_NODE, True),
        (KeyError("sigma"), CAUSE.CODE, True),
    ],
)
def test_an_error_has_a_cause(error: Exception, cause: FailureCause, retry: bool) -> None:
    failure = failure_of(error)
    assert (failure.cause, failure.retry) == (cause, retry)
    assert failure.sentence


def test_of_several_workers_the_one_that_failed_first_explains_it() -> None:
    lost = RuntimeError("Traceback …\nRuntimeError: Connection closed by peer")
    full = RuntimeError("Traceback …\nRuntimeError: StoreFull: no room")
    error = WorkerGroupError("all that happened", {0: lost, 1: full})
    assert root_cause(error) == "worker 1: StoreFull: no room"
    assert failure_of(error).cause is CAUSE.STORE_AWAY


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Job entrypoint command failed with exit code -9, last available logs:\nx", CAUSE.LOST_NODE),
        ("Job entrypoint command failed with exit code 1, last available logs:\nImportError: x", CAUSE.CODE),
        ("Job entrypoint command failed with exit code 2, last available logs:\nx", CAUSE.CONFIGURATION),
        ("Job supervisor actor died: the node is dead", CAUSE.LOST_NODE),
        ("The job was killed: the node was running low on memory", CAUSE.OUT_OF_MEMORY),
    ],
)
def test_a_driver_that_ended_without_a_word_has_a_cause(message: str, cause: FailureCause) -> None:
    assert cause_of_lost_driver(RayJob("FAILED", message)) is cause


def again(catalog: Catalog) -> Job:
    with catalog.transaction() as tx:
        (job,) = [one for one in tx.jobs.list(kind=JobKind.TRAIN).items if one.state is JobState.QUEUED]
        tx.leases.postpone(job.id, "at once", -1)
        claimed = tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60)
    assert claimed is not None
    return claimed


@pytest.mark.parametrize("progress", [False, True])
def test_an_error_of_the_program_that_repeats_without_progress_ends_the_job(
    local_catalog: Catalog, progress: bool
) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    failure = Failure(CAUSE.CODE, "Training failed: KeyError: 'sigma'", retry=True)
    with local_catalog.transaction() as tx:
        assert write_failure(tx, attempt, failure) is JobState.QUEUED
    second = replace(attempt, fence=again(local_catalog).fence)
    with local_catalog.transaction() as tx:
        if progress:
            tx.leases.made_progress(second.job_id, second.fence)
        state = write_failure(tx, second, failure)
    job = get_run(local_catalog, attempt.run_id).job
    assert job.cause is CAUSE.CODE
    if progress:
        assert state is JobState.QUEUED
    else:
        assert state is JobState.FAILED
        assert job.error == f"{failure.sentence} (twice in a row, with no checkpoint in between)"


def test_other_errors_use_all_attempts(local_catalog: Catalog) -> None:
    attempt = claim_locally(tiny_config(), local_catalog, max_attempts=3)
    failure = Failure(CAUSE.STORE_AWAY, "the bucket does not answer", retry=True)
    states = []
    for _ in range(3):
        with local_catalog.transaction() as tx:
            states.append(write_failure(tx, attempt, failure))
        if states[-1] is JobState.QUEUED:
            attempt = replace(attempt, fence=again(local_catalog).fence)
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
    with local_catalog.transaction(read_only=True) as tx:
        assert {one.cause for one in tx.jobs.attempts(attempt.job_id)} == {CAUSE.STORE_AWAY}


IMAGES = 8192
"""Of one step: their activations take more than the 1.4 GiB that the process may take."""


def drive_short_of_memory(folder: Path, catalog: Catalog, name: str, **fields: Any) -> Job:
    images = ("batch_size", "total_images", "snapshot_every", "checkpoint_every", "status_every", "magnitudes_every")
    config = tiny_config(**dict.fromkeys(images, IMAGES), **fields)
    attempt = claim_locally(config, catalog, name=name)
    command = [sys.executable, "-m", "tests.trainer.short_of_memory"]
    command += [str(folder), attempt.job_id, str(attempt.fence), "1400"]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # arenas of threads take address space without using it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return get_run(catalog, attempt.run_id).job


def test_out_of_memory_proposes_a_batch_that_fits(local_catalog: Catalog, tmp_path: Path) -> None:
    failed = drive_short_of_memory(tmp_path, local_catalog, "large")
    assert (failed.state, failed.cause) == (JobState.FAILED, CAUSE.OUT_OF_MEMORY), failed.error
    assert failed.error is not None
    found = re.fullmatch(
        r"max_batch_per_worker null is too large for the memory of cpu: a backward pass of 8192 images at a time "
        r"failed, and one of (\d+) fits; start the run with max_batch_per_worker (\d+), which changes neither the "
        r"batch nor the learning rate",
        failed.error,
    )
    assert found is not None, failed.error
    assert found.group(1) == found.group(2)
    proposed = drive_short_of_memory(tmp_path, local_catalog, "proposed", max_batch_per_worker=int(found.group(1)))
    assert (proposed.state, proposed.error) == (JobState.SUCCEEDED, None)


def test_gradients_that_stay_not_finite_end_the_run(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(tiny_config(loss_scaling=1e39), local_catalog)
    settings = Settings(state_dir=tmp_path, training_nonfinite_steps=5)
    assert drive(local_catalog, settings, attempt.job_id, attempt.fence, device="cpu") == 0
    job = get_run(local_catalog, attempt.run_id).job
    assert (job.state, job.cause) == (JobState.FAILED, CAUSE.NOT_FINITE)
    assert job.error is not None
    assert job.error.startswith("the gradients of 5 steps in a row were not finite at 80 images: lower learning_rate")
