"""Two workers as two processes with gloo, without Ray: equal to each other and as deterministic as one worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phema.services.trainer.attempt import TrainingAttempt
from phema.services.trainer.control.terminal_state import finish_job
from phema.services.trainer.local_training import claim_locally, train_locally
from phema.shared.catalog import Catalog, JobState
from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.files.snapshot_file import load_tensors
from tests.trainer.support import snapshots_of, tiny_config

WORKER = """
import hashlib, json, sys
import torch, torch.distributed as dist
from phema.services.trainer.training import loop
from phema.services.trainer.attempt import load_attempt
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.catalog import Catalog
from phema.shared.snapshots import open_store
from phema.shared.telemetry import Meters

folder, rank, store, *jobs = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=2)
states = []
fresh = loop.TrainingState
loop.TrainingState = lambda *given, **named: states.append(fresh(*given, **named)) or states[-1]
catalog = Catalog(f"sqlite:///{folder}/catalog.db")
store = open_store(f"file://{folder}/{store}")
ends = []
for job_id in jobs:
    attempt = load_attempt(catalog, job_id, 1)
    loop.train(attempt, catalog=catalog, store=store, group=WorkerGroup(int(rank), 2), meters=Meters("training"))
    digest = hashlib.sha256()
    for value in [*states[-1].denoiser.state_dict().values(), *states[-1].ema.tensors(1).values()]:
        digest.update(value.numpy().tobytes())
    ends.append({"num_images": states[-1].num_images, "weights": digest.hexdigest()})
print(json.dumps(ends))
dist.destroy_process_group()
"""


def train_in_two(
    attempts: list[TrainingAttempt], folder: Path, stores: tuple[str, str] = ("store", "store")
) -> list[list[dict[str, object]]]:
    """The final images and weights of every run, on each of the two workers. `stores`: the folder that each uses."""
    jobs = [attempt.job_id for attempt in attempts]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(rank), store, *jobs], stdout=subprocess.PIPE, text=True
        )
        for rank, store in enumerate(stores)
    ]
    try:
        return [json.loads(process.communicate(timeout=500)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


CHECK = """
import sys
import torch.distributed as dist
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.services.trainer.training.run_checks import check_same_dataset
from phema.shared.recipes.run_config import DatasetConfig

folder, rank, *fingerprints = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=2)
choice, group = DatasetConfig(name="mine", path="/data/mine"), WorkerGroup(int(rank), 2)
check_same_dataset("equal", choice, group)
try:
    check_same_dataset(fingerprints[int(rank)], choice, group)
except ValueError as error:
    print(type(error).__name__, error)
dist.barrier()
dist.destroy_process_group()
"""


def test_workers_with_different_datasets_fail(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHECK, str(tmp_path), str(rank), "one", "other"], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert said == 2 * [
        "DatasetError dataset.path /data/mine does not hold the same files for every worker; "
        "give each machine the same files, or one path that all can reach\n"
    ]


def averages(catalog: Catalog, store: ObjectStore, run: str) -> dict[str, Tensor]:
    """Every tensor of every snapshot of the run."""
    with catalog.transaction(read_only=True) as tx:
        rows = tx.snapshots.list(tx.runs.get(run).id)
    files = [(f"{row.num_images}/{row.sigma_rel}", load_tensors(store.get(row.key))) for row in rows]
    return {f"{time}/{name}": value for time, tensors in files for name, value in tensors.items()}


@pytest.mark.timeout(600)
def test_two_workers_hold_the_same_weights_and_repeat_them(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """They learn what a single worker does, up to the order of summation, though that one accumulates gradients.

    Their cancel is agreed on as well: the third run is stopped after its first step on both.
    """
    config = tiny_config(num_workers=2, total_images=160, checkpoint_every=80)
    alone = train_locally(tiny_config(total_images=160, max_batch_per_worker=4), local_catalog, local_store)
    attempts = [claim_locally(config, local_catalog, name=name) for name in ("one", "other", "cancelled")]
    with local_catalog.transaction() as tx:
        tx.jobs.request_cancel(attempts[-1].job_id)
    first, second = train_in_two(attempts, tmp_path)
    assert first == second
    assert [end["num_images"] for end in first] == [160, 160, 16]
    for attempt, state in zip(attempts, (JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.CANCELLED), strict=True):
        with local_catalog.transaction() as tx:
            assert finish_job(tx, attempt) is state
    one, other = (snapshots_of(local_catalog, local_store, name) for name in ("one", "other"))
    assert one == other
    expected, found = (averages(local_catalog, local_store, name) for name in (alone.id, "one"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
