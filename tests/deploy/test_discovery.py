"""A real Prometheus finds processes through the API, with its token; panels have data; a killed worker is told of."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from deploy.grafana import build
from deploy.grafana.panels import concrete
from deploy.prometheus.elsewhere import write_config
from phema.processes import free_port
from shared.catalog import Catalog
from shared.settings import Settings
from shared.telemetry import METRICS, Meters, metrics_of, serve_metrics
from shared.telemetry.metrics import Metric, Source
from shared.wiring import catalog_from
from tests.api.process import running

DEADLINE_SECONDS = 60.0
TOKEN = "a-test-token"
VALUES = {
    "run_id": ("run-1",),
    "name": ("digits",),
    "bin": ("0", "1"),
    "part": ("data", "ema"),
    "device": ("cpu",),
    "weights": ("ema", "training"),
    "side": ("enc", "dec"),
    "resolution": ("8", "16"),
    "statistic": ("max", "mean"),
    "cause": ("store",),
    "outcome": ("submitted",),
    "state": ("succeeded",),
    "kind": ("reconstruct",),
}


def move(meters: Meters) -> None:
    """Give every metric of a process a value, or another one."""

    def one(metric: Metric, labels: dict[str, str]) -> None:
        (meters.observe if metric.kind == "histogram" else meters.add)(metric, 1.0, **labels)

    for metric in metrics_of(meters.source):
        for values in itertools.product(*(VALUES[label] for label in metric.labels)):
            one(metric, dict(zip(metric.labels, values, strict=True)))


def require_prometheus() -> None:
    """Skips where there is none, unless PHEMA_REQUIRE_PROMETHEUS is set."""
    if shutil.which("prometheus") is None:
        if os.environ.get("PHEMA_REQUIRE_PROMETHEUS"):
            pytest.fail("PHEMA_REQUIRE_PROMETHEUS is set, but there is no prometheus")
        pytest.skip("no prometheus; install Debian's `prometheus`")


@contextmanager
def prometheus(folder: Path, api: str) -> Iterator[str]:
    """Debian's, with the committed configuration at another address and a second's intervals: its URL."""
    port = free_port("127.0.0.1")
    config = write_config(folder, api=api, api_token=TOKEN, interval="1s")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def ask(url: str, expr: str) -> list[dict[str, Any]]:
    try:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": expr})
    except httpx.TransportError:
        return []
    assert answer.status_code in (200, 503), answer.text  # 503: not ready yet
    result: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return result


@dataclass(frozen=True)
class Deployment:
    """An API in a process of its own, a process of each other kind with values made up, and Prometheus."""

    url: str
    """Prometheus's."""
    catalog: Catalog
    meters: list[Meters]
    served: dict[str, tuple[str, Callable[[], None]]]
    """By kind: where its metrics are, and how it is killed."""

    def wait_for(self, expr: str, *, some: bool = True) -> list[dict[str, Any]]:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while bool(found := ask(self.url, expr)) is not some:
            assert time.monotonic() < deadline, expr
            for each in self.meters:
                move(each)
            time.sleep(0.2)
        return found


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    require_prometheus()
    settings = Settings(state_dir=tmp_path / "state", api_token=SecretStr(TOKEN))
    with contextlib.ExitStack() as stack:
        catalog = catalog_from(settings)
        stack.callback(catalog.close)
        catalog.upgrade()
        kinds: tuple[Source, ...] = ("trainer", "training", "worker")
        meters = [Meters(kind) for kind in kinds]
        served = {each.source: serve_metrics(each.registry, "127.0.0.1") for each in meters}
        stack.callback(lambda: [stop() for _, stop in served.values()])
        with catalog.transaction() as tx:
            for kind, (address, _) in served.items():
                tx.targets.register(kind, address)
            run = tx.runs.create("digits", {}, "hash", 100, 1)
            tx.jobs.request_cancel(run.job_id)
        api = stack.enter_context(running(settings))
        assert httpx.get(f"{api.url}/readyz").json()["status"] == "ready"
        url = stack.enter_context(prometheus(tmp_path, api.url.removeprefix("http://")))
        yield Deployment(url, catalog, meters, served)


def test_every_panel_has_data_and_ended_runs_are_forgotten(deployment: Deployment) -> None:
    names = {metric.name + ("_count" if metric.kind == "histogram" else "") for metric in METRICS}
    names.remove("phema_queue_oldest_seconds")  # no job waits in this catalog
    chosen = {"run": "run-1", "weights": "ema", "statistic": "max"}
    for expr in [*sorted(names), *(concrete(expr, **chosen) for _, _, expr in build.queries())]:
        deployment.wait_for(expr)
    with deployment.catalog.transaction() as tx:
        tx.targets.remove(deployment.served["training"][0])
    deployment.wait_for("phema_training_images", some=False)
    assert ask(deployment.url, "phema_reconstructions_total") != []


@pytest.mark.slow
def test_a_killed_worker_raises_its_alert(deployment: Deployment) -> None:
    deployment.wait_for('up{service="worker"} == 1')
    deployment.served.pop("worker")[1]()
    firing = deployment.wait_for('ALERTS{alertname="PhemaTargetDown", alertstate="firing"}')
    assert [alert["metric"]["service"] for alert in firing] == ["worker"]
