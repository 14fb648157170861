"""A real Prometheus finds processes through the API, with its token, and every panel has something to show."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from shared.telemetry.metrics import Metric
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


def ask(url: str, expr: str) -> list[dict[str, object]]:
    try:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": expr})
    except httpx.TransportError:
        return []
    assert answer.status_code in (200, 503), answer.text  # 503: not ready yet
    result: list[dict[str, object]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return result


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus; promtool's tests say whether that may be"
)
def test_prometheus_finds_every_process_and_forgets_those_that_ended(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", api_token=SecretStr(TOKEN))
    catalog: Catalog = catalog_from(settings)
    catalog.upgrade()
    kinds = ("trainer", "training", "worker")
    meters = {kind: Meters(kind) for kind in kinds}
    served = {kind: serve_metrics(meters[kind].registry, "127.0.0.1") for kind in kinds}
    with catalog.transaction() as tx:
        for kind in kinds:
            tx.targets.register(kind, served[kind][0])
        run = tx.runs.create("digits", {}, "hash", 100, 1)
        tx.jobs.request_cancel(run.job_id)
    panels = [(*where, concrete(expr, run="run-1", weights="ema", statistic="max")) for *where, expr in build.queries()]
    names = {m.name + ("_count" if m.kind == "histogram" else "") for m in METRICS}
    # There is no queued job in this catalog, and no attempt has ended.
    names -= {"phema_queue_oldest_seconds", "phema_queue_attempts"}
    missing = {name: name for name in names}
    missing |= {
        f"{dashboard}: {panel}": expr for dashboard, panel, expr in panels if "phema_queue_attempts" not in expr
    }
    try:
        with running(settings) as api, prometheus(tmp_path, api.url.removeprefix("http://")) as url:
            assert httpx.get(f"{api.url}/readyz").json()["status"] == "ready"
            deadline = time.monotonic() + DEADLINE_SECONDS
            while missing and time.monotonic() < deadline:
                for each in meters.values():
                    move(each)
                missing = {where: expr for where, expr in missing.items() if not ask(url, expr)}
                time.sleep(0.2)
            assert missing == {}
            with catalog.transaction() as tx:
                tx.targets.remove(served["training"][0])
            while ask(url, "phema_training_images") and time.monotonic() < deadline:
                time.sleep(0.2)
            assert ask(url, "phema_training_images") == []
            assert ask(url, "phema_reconstructions_total") != []
    finally:
        for _, stop in served.values():
            stop()
        catalog.close()
