"""Probes and metrics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from shared.catalog import JobKind
from shared.settings import Settings
from shared.telemetry import metrics_of
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


def test_the_queue_is_measured_when_it_is_asked_for(api: Api) -> None:
    assert not [name for name, _ in _series(api) if name.startswith("phema_queue")]
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
    # What is no longer there is no longer said.
    assert _key("phema_queue_jobs", kind="train", state="queued") not in series
    assert _key("phema_queue_oldest_seconds", kind="train") not in series


@only("sqlite")
def test_metrics_outlive_the_catalog(open_api: Callable[[Settings], Api], settings: Settings, tmp_path: Path) -> None:
    api = open_api(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/no/catalog.db"}))
    api.get("/v1/runs")
    series = _series(api)
    assert series[_key("phema_http_requests_total", method="GET", route="/v1/runs", status="503")] == 1
    assert not [name for name, _ in series if name.startswith("phema_queue")]


@only("sqlite")
def test_only_documented_metrics_are_served(api: Api) -> None:
    seed.run(api.catalog)
    api.get("/v1/runs")
    known = {metric.name.removesuffix("_total") for metric in metrics_of("api")}
    families = text_string_to_metric_families(api.get("/metrics").text)
    assert {family.name for family in families} - {f"{name}_created" for name in known} == known
