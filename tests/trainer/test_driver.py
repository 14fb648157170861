"""The driver without Ray: the errors it reports, and the resources it requests from the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.train import WorkerGroupError

from phema.services.trainer.control.driver import drive
from phema.services.trainer.control.failure_causes import root_cause
from phema.services.trainer.control.heartbeat import EXIT_LOST
from phema.services.trainer.control.worker_resources import Placement, TooFewResources, no_room, place_workers
from phema.services.trainer.local_training import claim_locally, train_locally
from phema.shared.catalog import Catalog, JobKind, JobState
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from tests.trainer.support import get_run, snapshots_of, tiny_config


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


def test_a_run_of_one_worker_trains_in_the_driver(
    local_catalog: Catalog, local_store: ObjectStore, tmp_path: Path
) -> None:
    """Without Ray's workers, and with the same bytes."""
    attempt = claim_locally(tiny_config(), local_catalog)
    result = run_driver(tmp_path, attempt.job_id, attempt.fence, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    run = get_run(local_catalog, attempt.run_id)
    assert (run.state, run.num_images) == (JobState.SUCCEEDED, 320)
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    (worker,) = [line for line in lines if line["message"] == "worker 0 of 1 trains on cpu"]
    assert worker.items() >= {**attempt.ids, "request_id": None, "rank": 0}.items() - {("request_id", None)}
    reference = train_locally(tiny_config(), local_catalog, local_store, name="reference")
    found = snapshots_of(local_catalog, local_store, run.id)
    assert len(found) == 8
    assert found == snapshots_of(local_catalog, local_store, reference.id)


def test_a_driver_that_starts_while_the_catalog_is_away_waits_for_it(tmp_path: Path) -> None:
    folder, away = tmp_path / "state", tmp_path / "away"
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    catalog.upgrade()
    attempt = claim_locally(tiny_config(), catalog)
    catalog.close()
    folder.rename(away)
    command = [sys.executable, "-m", "phema.services.trainer.control.driver", "--device", "cpu"]
    command += ["--job", attempt.job_id, "--fence", str(attempt.fence)]
    environment = {**os.environ, "PHEMA_STATE_DIR": str(folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stderr is not None
            assert any("the start of the training waits for the catalog" in line for line in driver.stderr)
            away.rename(folder)
            driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert driver.returncode == 0
    assert get_run(catalog, attempt.run_id).state is JobState.SUCCEEDED
    catalog.close()


def test_the_first_heartbeat_does_not_wait_for_heavy_imports() -> None:
    code = (
        "import sys, phema.services.trainer.control.driver\n"
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


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
    assert job.error.startswith("The run's configuration is not valid: future is not known here")


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
        ("auto", {"CPU": 4.0}, {"CPU": 1.0}),
        ("auto", {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}),
        ("auto", {"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0}),
        ("cpu", {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0}),
    ],
)
def test_workers_get_what_the_cluster_has(device: str, cluster: dict[str, float], expected: dict[str, float]) -> None:
    placement = place_workers(tiny_config(num_workers=2, device=device), Settings(), cluster)
    assert placement == Placement(2, expected)
    assert placement.device == ("cuda:0" if "GPU" in expected else "cpu")


@pytest.mark.parametrize(
    ("device", "cluster", "sentence"),
    [
        ("cpu", {"CPU": 1.0}, "num_workers 2 needs 2 CPUs, but the cluster has 1"),
        ("cuda", {"CPU": 4.0}, "num_workers 2 needs 2 GPUs, but the cluster has 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_named(device: str, cluster: dict[str, float], sentence: str) -> None:
    with pytest.raises(TooFewResources, match=sentence):
        place_workers(tiny_config(num_workers=2, device=device), Settings(), cluster)


def test_nodes_that_an_autoscaler_may_add_count() -> None:
    settings = Settings(cluster_max_cpus=80, cluster_max_gpus=2)
    gpus = {"CPU": 1.0, "GPU": 1.0}
    assert place_workers(tiny_config(num_workers=2), settings, {"CPU": 1.0}).resources == gpus
    assert place_workers(tiny_config(num_workers=4), settings, {"CPU": 1.0, "GPU": 4.0}).resources == gpus
    with pytest.raises(TooFewResources, match="num_workers 4 needs 4 GPUs, but the cluster has 2"):
        place_workers(tiny_config(num_workers=4, device="cuda"), settings, {"CPU": 1.0})


def test_the_sentence_for_workers_that_find_no_room() -> None:
    placement = Placement(1, {"CPU": 1.0, "GPU": 1.0})
    sentence = no_room(placement, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 0.75})
    assert sentence == (
        "num_workers 1 finds no room on the cluster: "
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
