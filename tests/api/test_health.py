"""Probes and metrics."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from phema.services.api.health import service
from phema.services.api.http.problems import Problem
from phema.shared.catalog import JobKind, ScrapeTarget
from phema.shared.catalog.clock import database_now
from phema.shared.settings import Settings
from phema.shared.telemetry import metrics_of
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only


@only("sqlite")
def test_anonymous_gets_401(guarded: Api) -> None:
    problem(guarded.anonymous("GET", "/metrics"), 401, "unauthorized")


@only("sqlite")
def test_probes_need_no_token(guarded: Api) -> None:
    assert guarded.anonymous("GET", "/healthz").json() == {"status": "ok"}
    assert guarded.anonymous("GET", "/readyz").json()["status"] == "ready"


def test_ready_means_catalog_and_store(api: Api) -> None:
    well = {"ok": True, "detail": None}
    assert api.get("/readyz").json() == {"status": "ready", "catalog": well, "store": well}


@only("sqlite")
def test_an_absent_catalog_is_named(open_api: Callable[[Settings], Api], settings: Settings, tmp_path: Path) -> None:
    broken = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/no/catalog.db"})
    response = open_api(broken).get("/readyz")
    assert response.status_code == 503
    answer = response.json()
    assert (answer["status"], answer["catalog"]["ok"], answer["store"]["ok"]) == ("not ready", False, True)
    assert "phema db upgrade" in answer["catalog"]["detail"]
    assert open_api(broken).get("/healthz").status_code == 200


@only("sqlite")
def test_what_is_wrong_is_told_to_friends_only(guarded: Api, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.rmtree(store, ignore_errors=True)
    store.write_text("a file where the folder should be")
    stranger = guarded.anonymous("GET", "/readyz")
    assert (stranger.status_code, stranger.json()["store"]) == (503, {"ok": False, "detail": None})
    assert str(store) in guarded.get("/readyz").json()["store"]["detail"]


def _series(api: Api) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(api.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def _key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_requests_are_counted_by_route_template(api: Api) -> None:
    seed.run(api.catalog)
    for path in ("/v1/runs/digits", "/v1/runs/nobody", "/v1/runs/digits", "/no/such/path"):
        api.get(path)
    api.request("BREW", "/v1/runs/digits")
    series = _series(api)
    counted = "phema_http_requests_total"
    assert series[_key(counted, method="GET", route="/v1/runs/{run}", status="200")] == 2
    assert series[_key(counted, method="GET", route="/v1/runs/{run}", status="404")] == 1
    assert series[_key(counted, method="GET", route="none", status="404")] == 1
    assert series[_key("phema_http_request_seconds_count", method="GET", route="/v1/runs/{run}")] == 3
    assert series[_key("phema_http_request_seconds_sum", method="GET", route="/v1/runs/{run}")] > 0
    # Neither paths nor methods of strangers become labels.
    assert not [labels for _, labels in series if "nobody" in str(labels) or "BREW" in str(labels)]


@only("sqlite")
def test_server_errors_of_every_route_begin_at_zero(api: Api) -> None:
    """Prometheus's `rate` misses an event that creates its series."""
    counted = "phema_http_requests_total"
    found = {labels: value for (name, labels), value in _series(api).items() if name == counted}
    problems = list(Problem.__subclasses__())
    for problem_type in problems:
        problems += problem_type.__subclasses__()
    statuses = {problem.status for problem in problems if getattr(problem, "status", 0) >= 500}
    assert statuses == {500, 503}
    paths = [(path, method.upper()) for path, methods in api.app.openapi()["paths"].items() for method in methods]
    expected = {
        _key(counted, method=method, route=route, status=str(status))[1]
        for route, method in [*paths, ("none", "GET"), ("none", "POST")]
        for status in statuses
    }
    assert expected <= found.keys()
    assert set(found.values()) == {0}
    assert len(found) < 200, "a bounded number of series"


def test_the_queue_is_measured_when_it_is_asked_for(api: Api) -> None:
    empty = _series(api)
    assert not [name for name, _ in empty if name in ("phema_queue_jobs", "phema_queue_oldest_seconds")]
    assert empty[_key("phema_queue_attempts", kind="train", outcome="failed")] == 0
    seed.run(api.catalog, "a")
    seed.run(api.catalog, "b")
    series = _series(api)
    assert series[_key("phema_queue_jobs", kind="train", state="queued")] == 2
    assert series[_key("phema_queue_oldest_seconds", kind="train")] >= 0
    seed.claim(api.catalog, JobKind.TRAIN)
    api.post("/v1/runs/b/cancel")
    series = _series(api)
    assert series[_key("phema_queue_jobs", kind="train", state="running")] == 1
    assert series[_key("phema_queue_jobs", kind="train", state="cancelled")] == 1
    # Series of what has gone disappear.
    assert _key("phema_queue_jobs", kind="train", state="queued") not in series
    assert _key("phema_queue_oldest_seconds", kind="train") not in series


def test_attempts_and_processes_are_measured(api: Api) -> None:
    seed.run(api.catalog, "a")
    job = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.fail(job.id, job.fence, "no", retry=True)
        tx.scrape_targets.register("worker", "127.0.0.1:9001")
        tx.scrape_targets.register("worker", "127.0.0.1:9002")
        tx.scrape_targets.register("training", "127.0.0.1:9003")
        tx.scrape_targets.remove("127.0.0.1:9003")  # said goodbye
        gone = {"127.0.0.1:9002": 100, "127.0.0.1:9004": 1000}  # the latter longer ago than anybody asks
        tx.scrape_targets.register("trainer", "127.0.0.1:9004")
        for address, seconds in gone.items():
            seen = database_now() - seconds
            tx.scrape_targets._session.execute(
                update(ScrapeTarget).where(ScrapeTarget.address == address).values(seen_at=seen)
            )
    series = _series(api)
    assert series[_key("phema_queue_attempts", kind="train", outcome="failed")] == 1
    found = {labels: value for (name, labels), value in series.items() if name == "phema_targets"}
    expected = {("worker", "live"): 1, ("worker", "silent"): 1}
    for kind in ("trainer", "training", "worker"):
        for state in ("live", "silent"):
            assert found[(("kind", kind), ("state", state))] == expected.get((kind, state), 0)


@only("sqlite")
def test_probes_and_disks_are_measured(guarded: Api, tmp_path: Path) -> None:
    store = tmp_path / "store"
    guarded.get("/readyz")
    series = _series(guarded)
    assert series[_key("phema_api_ready", part="store")] == series[_key("phema_api_ready", part="catalog")] == 1
    for place in ("state", "store"):
        size = series[_key("phema_disk_size_bytes", place=place)]
        assert size == shutil.disk_usage(tmp_path).total
        assert 0 < series[_key("phema_disk_free_bytes", place=place)] <= size
    shutil.rmtree(store, ignore_errors=True)
    store.write_text("a file where the folder should be")
    guarded.get("/readyz")
    assert _series(guarded)[_key("phema_api_ready", part="store")] == 0


@only("sqlite")
def test_metrics_outlive_the_catalog(open_api: Callable[[Settings], Api], settings: Settings, tmp_path: Path) -> None:
    api = open_api(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/no/catalog.db"}))
    api.get("/v1/runs")
    series = _series(api)
    assert series[_key("phema_http_requests_total", method="GET", route="/v1/runs", status="503")] == 1
    assert not [name for name, _ in series if name.startswith("phema_queue")]


@pytest.fixture
def hung_database() -> Iterator[str]:
    """URL of a database that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://phema@127.0.0.1:{server.getsockname()[1]}/phema"


@only("sqlite")
def test_a_catalog_that_hangs_holds_up_no_scrape(
    open_api: Callable[[Settings], Api], settings: Settings, hung_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus would count the API as down: the scrape answers in time, without the catalog's series."""
    assert service.SCRAPE_SECONDS < 4, "deploy/prometheus/prometheus.yml: scrape_timeout"
    monkeypatch.setattr(service, "SCRAPE_SECONDS", 0.3)
    monkeypatch.setattr(service, "READY_SECONDS", 1.0)
    monkeypatch.setattr(service, "PROBE_SECONDS", 0.1)
    api = open_api(settings.model_copy(update={"database_url": hung_database}))
    began = time.monotonic()
    ready: float | None = None
    while ready != 0:
        series = _series(api)
        assert _key("phema_disk_free_bytes", place="state") in series
        assert not [name for name, _ in series if name.startswith("phema_queue")]
        assert series[_key("phema_api_ready", part="store")] == 1
        ready = series.get(_key("phema_api_ready", part="catalog"))
        assert time.monotonic() - began < 8, "that is the database's own limit"
    names = [thread.name for thread in threading.enumerate()]
    assert (names.count("queue"), names.count("catalog")) == (1, 1), "a running check is not started again"
    detail = api.get("/readyz").json()["catalog"]["detail"]
    assert detail.startswith("the catalog has not answered for ")


@only("sqlite")
def test_a_scrape_repeats_checks_that_are_old(guarded: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `phema up`, nothing requests /readyz."""
    ready = _key("phema_api_ready", part="store")
    assert _series(guarded)[ready] == 1
    store = tmp_path / "store"
    shutil.rmtree(store, ignore_errors=True)
    store.write_text("a file where the folder should be")
    assert _series(guarded)[ready] == 1, "looked at a moment ago"
    monkeypatch.setattr(service, "READY_SECONDS", 0.0)
    assert _series(guarded)[ready] == 0


@only("sqlite")
def test_only_documented_metrics_are_served(api: Api) -> None:
    seed.run(api.catalog)
    api.get("/v1/runs")
    known = {metric.name.removesuffix("_total") for metric in metrics_of("api")}
    families = text_string_to_metric_families(api.get("/metrics").text)
    assert {family.name for family in families} - {f"{name}_created" for name in known} == known
