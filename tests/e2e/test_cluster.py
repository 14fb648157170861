"""docker-compose.yml's cluster as processes of this machine: a run through it, watched by a real Prometheus.

Every documented metric is scraped with what the run made of it, every panel of Grafana has data, `phema doctor` finds
nothing wrong, and a killed worker raises its alert and is replaced. The commands of docs/tutorials/cluster.md work;
the fixture runs those of it and of deploy/README.md that start and end a cluster.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from deploy.grafana import build
from deploy.grafana.panels import concrete
from deploy.local.compose import read_variables
from deploy.local.postgres import find_binaries
from phema import Client
from phema.client.response_models import Run
from phema.local_service.processes import port_is_free, spawn, stop, tail
from phema.shared.telemetry import METRICS
from tests.docs.blocks import Session

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 300.0
WHOLE = "30m"
"""A range that holds everything this module does."""
RUN = {
    "total_images": 3840,
    "snapshot_every": 640,
    "checkpoint_every": 1920,
    "status_every": 640,
    "magnitudes_every": 640,
    "noise_level_bins": 2,
}
RECIPE = {"num_samples": 32, "num_steps": 4, "grid": 4}
FAILURES = {"phema_training_nonfinite_gradients_total", "phema_upload_retries_total", "phema_actor_restarts_total"}
"""Counters that stay at 0 where nothing goes wrong."""

Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], what: str) -> Found:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Cluster:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def document(self) -> dict[str, Any]:
        """What it says of itself; empty before there is anything."""
        file = self.folder / "cluster.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, tail(self.folder / "out", 20)
        return bool(self.document.get("ready"))

    def client(self) -> Client:
        return Client(self.document["url"], read_variables(self.folder / ".env")["PHEMA_API_TOKEN"])

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.local", str(self.folder), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression as they are now."""
        answer = httpx.get(f"{self.document['prometheus']}/api/v1/query", params={"query": expr})
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def ever(self, expr: str, since: float) -> list[float]:
        """All values that an expression had, as a panel over that time would draw them."""
        span = {"query": expr, "start": since, "end": time.time(), "step": 2}
        answer = httpx.get(f"{self.document['prometheus']}/api/v1/query_range", params=span, timeout=30)
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        return [float(value) for series in answer.json()["data"]["result"] for _, value in series["values"]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    for missing, name in ((shutil.which("prometheus") is None, "PROMETHEUS"), (find_binaries() is None, "POSTGRES")):
        if missing and os.environ.get(f"PHEMA_REQUIRE_{name}"):
            pytest.fail(f"PHEMA_REQUIRE_{name} is set, but there is none")
        if missing:
            pytest.skip(f"no {name.lower()} on this machine")
    # In a folder that PostgreSQL can enter, which never runs as root.
    folder = Path(tempfile.mkdtemp(prefix="phema-cluster-"))
    folder.chmod(0o755)
    new_env = ["bash", str(ROOT / "deploy/new_env.sh"), str(folder / ".env")]
    subprocess.run(new_env, check=True, capture_output=True)
    with (folder / ".env").open("a") as chosen:
        chosen.write("RAY_WORKER_CPUS=2\n")  # Ray starts a process for each, at once
    started = time.monotonic()
    command = [sys.executable, "-m", "deploy.local", str(folder), "--interval", "1s"]
    process = spawn(command, log=folder / "out", env={}, cwd=ROOT)
    running = Cluster(folder, process)
    try:
        eventually(lambda: running.ready, "the cluster is ready")
        print(f"ready after {time.monotonic() - started:.0f} s")
        yield running
        ports = [port for own in running.document["ports"].values() for port in own.values()]
        scratch = Path(running.document["scratch"])
        processes = psutil.Process(process.pid).children(recursive=True)
        done = running.call("--down")
        assert done.returncode == 0, done.stderr
        assert process.wait(timeout=60) == 0
        assert [found for found in processes if found.is_running()] == []
        assert [port for port in ports if not port_is_free(port, "0.0.0.0")] == []
        assert not scratch.exists()
        assert running.document == {}
    finally:
        stop(process, grace_s=90)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Worked:
    run: Run
    since: float


@pytest.fixture(scope="module")
def worked(cluster: Cluster) -> Worked:
    """Everything that phema does, done once, and scraped."""
    since = time.time()
    with closing(cluster.client()) as client:
        client.runs.create("digits", "digits-tiny", RUN)
        run = client.runs.watch("digits", timeout=DEADLINE_SECONDS)
        assert run.state == "succeeded", run
        weights = client.reconstruct("digits", [0.08, 0.12])
        asked = [client.evaluate(item, wait=False, **RECIPE) for item in weights]
        for evaluation in asked:
            client.wait(evaluation.job_id or "", timeout=DEADLINE_SECONDS)
        client.sample(weights[0], seeds="0-15", num_steps=4)
        client.compact("digits")
        client.retain("digits", "thin", dry_run=False)
    for counter in ("snapshots_deleted", "evaluation_samples", "sampled_pictures"):
        eventually(lambda moved=f"phema_{counter}_total > 0": cluster.ask(moved), f"the last scrape of {counter}")
    return Worked(run, since)


def test_prometheus_has_scraped_every_metric(cluster: Cluster, worked: Worked) -> None:
    absent, never_moved = [], []
    for metric in METRICS:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        values = [float(series["value"][1]) for series in cluster.ask(f"max_over_time({name}[{WHOLE}])")]
        if not values:
            absent.append(name)
        elif metric.kind != "gauge" and max(values) == 0:
            never_moved.append(name)
    assert absent == []
    assert set(never_moved) == FAILURES


def test_every_panel_has_data(cluster: Cluster, worked: Worked) -> None:
    asked = {}
    for weights, statistic in (("training", "max"), ("ema", "mean")):
        chosen = {"run": worked.run.id, "weights": weights, "statistic": statistic}
        for dashboard, panel, expr in build.queries():
            # What follows an `or` fills panels of a fresh install: the figures themselves must be there.
            asked[concrete(expr, **chosen).partition(" or ")[0]] = (dashboard, panel)
    values = {figures: cluster.ever(figures, worked.since) for figures in asked}
    assert {where: figures for figures, where in asked.items() if not any(map(math.isfinite, values[figures]))} == {}


def test_the_run_can_be_chosen_after_its_end_and_its_series_are_gone(cluster: Cluster, worked: Worked) -> None:
    (variable,) = [found for found in build.RUN_DASHBOARD.variables if found["name"] == "run"]
    listed = cluster.ask(concrete(variable["definition"].removeprefix("query_result(").removesuffix(")")))
    assert [(found["metric"]["run_id"], found["metric"]["name"]) for found in listed] == [(worked.run.id, "digits")]
    assert cluster.ask("phema_training_images") == []
    assert cluster.ask("phema_reconstructions_total") != []


def test_the_doctor_finds_nothing_wrong(cluster: Cluster) -> None:
    done = cluster.call("--run", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "has 3 nodes, 2 CPUs" in done.stdout


def test_the_tutorial_works_as_printed(cluster: Cluster, worked: Worked, tmp_path: Path) -> None:
    environment = {
        "PHEMA_URL": cluster.document["url"],
        "PHEMA_API_TOKEN": read_variables(cluster.folder / ".env")["PHEMA_API_TOKEN"],
        "PROMETHEUS": cluster.document["prometheus"],
    }
    outputs = Session("docs/tutorials/cluster.md", tmp_path, environment).run()
    assert '"status":"success"' in outputs[1]
    assert '"name":"watched"' in outputs[1]
    assert len(list((tmp_path / "weights").iterdir())) == 1


def test_a_killed_worker_raises_its_alert_and_is_replaced(cluster: Cluster) -> None:
    worker = psutil.Process(cluster.document["services"]["phema-worker"]["pid"])
    assert worker.cmdline()[1:] == ["-m", "phema.services.phema_worker"]
    worker.kill()
    # With times this short, a training that has just ended may raise it too, until Prometheus reads the targets again.
    alert = 'ALERTS{alertname="PhemaTargetDown", alertstate="firing", service="worker"}'
    firing = eventually(lambda: cluster.ask(alert), "the alert of a killed worker")
    assert len(firing) == 1
    eventually(lambda: cluster.ask('up{service="worker"} == 1'), "another worker")
    assert cluster.document["services"]["phema-worker"]["restarts"] == 1
