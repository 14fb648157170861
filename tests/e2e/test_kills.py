"""kill -9 of any process mid-work loses nothing and ends in the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

import phema
from phema.shared.catalog import Catalog
from tests.e2e.conftest import Service

CONFIG = {
    "total_images": 12_800,
    "snapshot_every": 1_280,
    "checkpoint_every": 1_280,
    "status_every": 640,
    "network": {"channel_mult": [1], "attn_resolutions": []},
}
PATIENCE_S = 300


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until true; a condition that stays false fails with its name."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.05)


def kill(service: Service, *pieces: str) -> None:
    """kill -9 the process whose command line holds `pieces`, as soon as there is one."""
    found: list[psutil.Process] = []

    def look() -> bool:
        process = service.process(*pieces)
        found[:] = [process] if process else []
        return bool(found)

    until(look, f"a process with {pieces}")
    found[0].kill()
    found[0].wait(10)


@pytest.fixture
def client(service: Service) -> Iterator[phema.Client]:
    with phema.Client(service.url) as client:
        yield client


@pytest.mark.timeout(900)
def test_kills_everywhere_end_in_the_same_weights(service: Service, client: phema.Client, tmp_path: Path) -> None:
    client.wait(client.runs.create("calm", config=CONFIG).job.id)
    client.runs.create("stormy", config=CONFIG)
    # Not through the API: the run could end before it is back.
    catalog = Catalog(f"sqlite:///{service.state / 'catalog.db'}")

    def trained(images: int) -> Callable[[], bool]:
        def look() -> bool:
            with catalog.transaction(read_only=True) as tx:
                return tx.runs.get("stormy").num_images >= images

        return look

    until(trained(1_280), "the first images")
    kill(service, "phema.services.api")
    until(trained(2_560), "progress without the API")
    kill(service, "-m phema.services.trainer")
    until(trained(3_840), "progress without the trainer")
    kill(service, "phema.services.trainer.control.driver")
    until(trained(6_400), "progress after the death of the process that trains")
    kill(service, "phema.services.trainer.control.driver")
    until(lambda: reachable(client), "the API's return")
    catalog.close()
    finished = client.runs.watch("stormy", timeout=PATIENCE_S)

    assert finished.state == "succeeded", finished
    assert snapshots(client, "stormy", tmp_path) == snapshots(client, "calm", tmp_path)


@pytest.mark.slow  # tests/phema_worker/test_crashes.py kills workers in every run
@pytest.mark.timeout(600)
def test_a_killed_worker_loses_no_evaluation(service: Service, client: phema.Client) -> None:
    client.wait(client.runs.create("scored", config={**CONFIG, "total_images": 1_280}).job.id)
    (weights,) = client.reconstruct("scored", 0.07)
    asked = client.evaluate(weights, wait=False, num_samples=1024, num_steps=16)
    assert asked.job_id is not None
    until(lambda: client.jobs.get(str(asked.job_id)).progress > 0.1, "samples")
    kill(service, "phema.services.phema_worker")
    client.wait(asked.job_id, timeout=PATIENCE_S)
    again = client.evaluate(weights, num_samples=1024, num_steps=16)
    assert (again.id, again.job_id) == (asked.id, asked.job_id)
    assert again.figures is not None
    assert again.figures["frechet"] > 0


def reachable(client: phema.Client) -> bool:
    try:
        client.jobs.list(limit=1)
    except phema.PhemaError:
        return False
    return True


def snapshots(client: phema.Client, run: str, folder: Path) -> dict[tuple[int, float], dict[str, bytes]]:
    """Every stored tensor, to the bit."""
    stored = {}
    for row in client.runs.snapshots(run):
        tensors = load_file(client.download(row.id, folder / f"{row.id}.safetensors"))
        stored[row.num_images, row.sigma_rel] = {name: tensor.tobytes() for name, tensor in tensors.items()}
    assert len(stored) == 20
    return stored
