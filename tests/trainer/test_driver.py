"""The driver without Ray: the errors it reports, and the resources it requests from the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.train import WorkerGroupError

from phema.services.trainer.control.driver import drive
from phema.services.trainer.control.heartbeat import EXIT_LOST
from phema.services.trainer.control.ray_training import root_cause
from phema.services.trainer.control.worker_resources import CannotTrain, not_placed, worker_resources
from phema.services.trainer.local_training import claim_locally
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.settings import Settings
from tests.trainer.support import get_run, loose_attempt, tiny_config


def run_driver(folder: Path, job_id: str, fence: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "phema.services.trainer.control.driver",
        "--job",
        job_id,
        "--fence",
        str(fence),
        *more,
    ]
    environment = {**os.environ, "PHEMA_STATE_DIR": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_a_stale_attempt_ends_without_writing_to_the_catalog(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    result = run_driver(tmp_path, attempt.job_id, attempt.fence - 1)
    assert result.returncode == EXIT_LOST
    assert "no longer holds job" in result.stderr
    job = get_run(local_catalog, attempt.run_id).job
    assert (job.state, job.message, job.error) == (JobState.RUNNING, None, None)


def test_a_network_that_does_not_fit_fails_at_once(local_catalog: Catalog, tmp_path: Path) -> None:
    config = tiny_config(network={"img_channels": 3})
    attempt = claim_locally(config, local_catalog)
    assert drive(local_catalog, Settings(state_dir=tmp_path), attempt.job_id, attempt.fence) == 0
    job = get_run(local_catalog, attempt.run_id).job
    assert job.state is JobState.FAILED
    assert job.error == "network.img_channels is 3, but the pictures of digits need 1"


def test_a_store_that_cannot_be_used_is_named(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(tiny_config(), local_catalog, max_attempts=1)
    settings = Settings(state_dir=tmp_path, store_url="file:///proc/no-such-store")
    assert drive(local_catalog, settings, attempt.job_id, attempt.fence) == 0
    job = get_run(local_catalog, attempt.run_id).job
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "/proc/no-such-store" in job.error


def test_a_configuration_of_another_version_fails_at_once(local_catalog: Catalog, tmp_path: Path) -> None:
    config = tiny_config()
    with local_catalog.transaction() as tx:
        run = tx.runs.create("newer", {**config.model_dump(mode="json"), "future": 1}, config.config_hash, 320)
        assert tx.leases.claim([JobKind.TRAIN], owner="test", lease_seconds=60) is not None
    assert drive(local_catalog, Settings(state_dir=tmp_path), run.job_id, 1) == 0
    job = get_run(local_catalog, run.id).job
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.startswith("The run's configuration is not valid: future:")


def test_a_secret_that_is_not_there_is_named(local_catalog: Catalog, tmp_path: Path) -> None:
    attempt = claim_locally(tiny_config(), local_catalog)
    result = run_driver(tmp_path, attempt.job_id, attempt.fence, "--inherits", "PHEMA_S3_SECRET_ACCESS_KEY")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "PHEMA_S3_SECRET_ACCESS_KEY is a secret, which is not passed through Ray's job metadata: "
        "set it in the environment of `ray start` on every node"
    ]


@pytest.mark.parametrize(
    ("device", "cluster", "expected"),
    [
        ("auto", {"CPU": 4.0}, ({"CPU": 1.0}, False)),
        ("auto", {"CPU": 4.0, "GPU": 2.0}, ({"CPU": 1.0, "GPU": 1.0}, True)),
        ("auto", {"CPU": 4.0, "GPU": 1.0}, ({"CPU": 1.0}, False)),
        ("cpu", {"CPU": 4.0, "GPU": 2.0}, ({"CPU": 1.0}, False)),
    ],
)
def test_workers_get_what_the_cluster_has(
    device: str, cluster: dict[str, float], expected: tuple[dict[str, float], bool]
) -> None:
    assert worker_resources(loose_attempt(num_workers=2, device=device), Settings(), cluster) == expected


@pytest.mark.parametrize(
    ("device", "cluster", "sentence"),
    [
        ("cpu", {"CPU": 1.0}, "num_workers 2 needs 2 CPUs, but the cluster has 1"),
        ("cuda", {"CPU": 4.0}, "num_workers 2 needs 2 GPUs, but the cluster has 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_named(device: str, cluster: dict[str, float], sentence: str) -> None:
    with pytest.raises(CannotTrain, match=sentence):
        worker_resources(loose_attempt(num_workers=2, device=device), Settings(), cluster)


def test_nodes_that_an_autoscaler_may_add_count() -> None:
    settings = Settings(cluster_max_cpus=80, cluster_max_gpus=2)
    gpus = ({"CPU": 1.0, "GPU": 1.0}, True)
    assert worker_resources(loose_attempt(num_workers=2), settings, {"CPU": 1.0}) == gpus
    assert worker_resources(loose_attempt(num_workers=4), settings, {"CPU": 1.0, "GPU": 4.0}) == gpus
    with pytest.raises(CannotTrain, match="num_workers 4 needs 4 GPUs, but the cluster has 2"):
        worker_resources(loose_attempt(num_workers=4, device="cuda"), settings, {"CPU": 1.0})


def test_the_sentence_for_workers_that_were_not_placed() -> None:
    sentence = not_placed(1, {"CPU": 1.0, "GPU": 1.0}, Settings(), {"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 0.75})
    assert sentence == (
        "num_workers 1 found no room on the cluster within 60 s: "
        "each worker takes 1 CPU and 1 GPU of one node, and 3 of 4 CPUs, "
        "0.75 of 1 GPUs are free; other trainings and the actors of phema workers (PHEMA_ACTOR_CPUS, PHEMA_ACTOR_GPUS) "
        "hold the rest"
    )


def test_the_root_cause_is_one_line() -> None:
    traceback = RuntimeError("Traceback (most recent call last):\n  …\nRuntimeError: StoreFull: no room")
    error = WorkerGroupError("all that happened", {1: ValueError("later"), 0: traceback})
    assert root_cause(error) == "worker 0: StoreFull: no room"
    assert root_cause(OSError("disk\nis full")) == "OSError: is full"
    assert root_cause(KeyError()) == "KeyError: KeyError"
