"""docker-compose.yml in real containers, as it is: everything works through the published ports, and nothing is lost.

The tests run in the order of this file, on one deployment. Without an engine they are skipped, and say so, unless
PHEMA_REQUIRE_CONTAINERS is set. PHEMA_CONTAINERS_STOP_SECONDS shortens the time without a Ray worker, and
PHEMA_CONTAINERS_KILLED names the services that are killed, separated by commas, where the whole takes too long.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from phema import Client
from phema.client.response_models import Run
from phema.local_service.doctor import CHECKS
from tests.containers.deployment import Deployment, eventually
from tests.containers.engine import NoEngine, running_engine
from tests.containers.images import prepare_images

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

STOP_SECONDS = float(os.environ.get("PHEMA_CONTAINERS_STOP_SECONDS", "180"))
JOB_SECONDS = 900.0
RUN = {
    "total_images": 3840,
    "snapshot_every": 640,
    "checkpoint_every": 640,
    "status_every": 640,
    "magnitudes_every": 1920,
    "noise_level_bins": 2,
}
RECIPE = {"num_samples": 32, "num_steps": 4, "grid": 4}
LONG = {**RUN, "snapshot_every": 6400, "checkpoint_every": 1280}
"""For runs that go on while something happens to the cluster; they train 300 to 900 images in a second."""
PATIENT = {**LONG, "total_images": 128_000, "snapshot_every": 32_000}
"""Not done after the half minute that Ray leaves to a node which is stopped."""
STATES = ("ok", "warning", "wrong")


KILLED = os.environ.get("PHEMA_CONTAINERS_KILLED", "")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took, as the table of deploy/README.md shows it."""
    started = time.monotonic()
    yield
    print(f"[containers] {what}: {time.monotonic() - started:.0f} s", flush=True)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    try:
        with running_engine() as engine:
            engine.compose  # noqa: B018 - raises NoEngine before anything is built
            made = Deployment.new(engine, tmp_path_factory.mktemp("deployment"))
            with timed("images"):
                made.choose({"RAY_WORKER_CPUS": "2", **prepare_images(engine, made.variables)})
            try:
                with timed("up until everything is healthy"):
                    made.up()
                yield made
            finally:
                made.down(volumes=True)
    except NoEngine as error:
        if os.environ.get("PHEMA_REQUIRE_CONTAINERS"):
            pytest.fail(f"PHEMA_REQUIRE_CONTAINERS is set: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[Client]:
    with closing(deployment.client()) as made:
        yield made


@dataclass(frozen=True)
class Done:
    """What the first run left, to be found again at the end."""

    run: Run
    snapshots: int
    reconstruction: str
    evaluation: str
    sha256: str


@pytest.fixture(scope="module")
def done(deployment: Deployment, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Done:
    with timed("a run of 3,840 images"):
        client.runs.create("digits", "digits-tiny", RUN)
        run = client.runs.watch("digits", timeout=JOB_SECONDS)
    assert run.state == "succeeded", run
    with timed("a reconstruction and its download"):
        (weights,) = client.reconstruct("digits", [0.1])
        file = client.download(weights.id, tmp_path_factory.mktemp("weights") / "weights.safetensors")
    with timed("an evaluation"):
        evaluation = client.evaluate(weights, **RECIPE)
    assert evaluation.state == "succeeded", evaluation
    snapshots = len([*client.runs.snapshots("digits")])
    return Done(run, snapshots, weights.id, evaluation.id, hashlib.sha256(file.read_bytes()).hexdigest())


def test_the_doctor_finds_nothing_wrong(deployment: Deployment) -> None:
    output = deployment.compose("run", "--rm", "doctor")
    states = {line.split()[1]: line.split()[0] for line in output.splitlines() if line[:8].strip() in STATES}
    assert states == dict.fromkeys(CHECKS, "ok"), output


def test_a_run_is_trained_reconstructed_evaluated_and_downloaded(done: Done) -> None:
    assert done.snapshots >= 12


def test_downloads_come_from_the_published_port_of_the_store(deployment: Deployment, done: Done) -> None:
    answer = httpx.get(
        f"{deployment.url('API')}/v1/reconstructions/{done.reconstruction}/download",
        headers={"Authorization": f"Bearer {deployment.variables['PHEMA_API_TOKEN']}"},
    )
    assert answer.status_code == 307
    assert answer.headers["location"].startswith(f"{deployment.url('MINIO')}/")


def test_the_log_of_the_trainer_holds_the_lines_of_trainings(deployment: Deployment, done: Done) -> None:
    lines = [json.loads(line) for line in deployment.logs("trainer", lines=2000).splitlines() if line.startswith("{")]
    of_run = [line for line in lines if line.get("run_id") == done.run.id]
    assert {line["service"] for line in of_run} == {"trainer", "training"}
    assert [line for line in of_run if "worker 0 of 1 trains on cpu" in line["message"]]


def test_the_log_of_the_worker_holds_the_lines_of_its_actors(deployment: Deployment, done: Done) -> None:
    text = deployment.logs("phema-worker", lines=2000)
    assert "pid=" not in text, "Ray's prefixes are left"
    begun = [line for line in text.splitlines() if '"service": "worker"' in line]
    assert {json.loads(line)["service"] for line in begun} == {"worker"}


def test_prometheus_scrapes_everything(deployment: Deployment, done: Done) -> None:
    def up() -> set[str]:
        answer = httpx.get(f"{deployment.url('PROMETHEUS')}/api/v1/query", params={"query": "up == 1"}).json()
        return {series["metric"]["service"] for series in answer["data"]["result"]}

    eventually(lambda: up() >= {"api", "trainer", "worker", "ray"}, "every service is scraped")


def test_a_run_goes_on_after_minutes_without_a_ray_worker(deployment: Deployment, client: Client, done: Done) -> None:
    client.runs.create("patient", "digits-tiny", PATIENT)
    eventually(lambda: client.runs.get("patient").num_images > 0, "the run has seen images")
    deployment.compose("stop", "ray-worker")
    try:
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until:
            assert not client.runs.get("patient").done
            time.sleep(5)
    finally:
        deployment.compose("start", "ray-worker")
    with timed("from the return of the Ray worker to the end of the run"):
        deployment.wait_until_healthy()
        run = client.runs.watch("patient", timeout=JOB_SECONDS)
    assert run.state == "succeeded", run
    assert len([*client.runs.snapshots("patient")]) == 2 * 4


def test_process_1_of_each_container_is_killed_and_the_run_goes_on(
    deployment: Deployment, client: Client, done: Done
) -> None:
    services = KILLED.split(",") if KILLED else deployment.lasting
    length = {"total_images": 19_200 * max(3, len(services)), "snapshot_every": 19_200}
    client.runs.create("killed", "digits-tiny", {**LONG, **length})
    eventually(lambda: client.runs.get("killed").num_images > 0, "the run has seen images")
    for service in services:
        with timed(f"healthy again after kill -9 of {service}"):
            deployment.kill(service)
            deployment.wait_until_healthy()
    with timed("from the last kill to the end of the run"):
        run = eventually(lambda: _ended(client, "killed"), "the run has ended")
    assert run.state == "succeeded", run
    (weights,) = client.reconstruct("killed", [0.1])
    assert weights.state == "succeeded"


def _ended(client: Client, name: str) -> Run | None:
    run = client.runs.get(name)
    return run if run.done else None


def test_everything_is_found_after_down_and_up(
    deployment: Deployment, client: Client, done: Done, tmp_path: Path
) -> None:
    with timed("down"):
        deployment.down()
    with timed("up again until everything is healthy"):
        deployment.up()
    assert client.runs.get("digits").state == "succeeded"
    assert len([*client.runs.snapshots("digits")]) == done.snapshots
    assert client.evaluation(done.evaluation).state == "succeeded"
    file = client.download(done.reconstruction, tmp_path / "weights.safetensors")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == done.sha256
    with timed("a reconstruction after that"):
        (weights,) = client.reconstruct("digits", [0.15])
    assert weights.state == "succeeded"
