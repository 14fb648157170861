"""Service discovery for Prometheus."""

from __future__ import annotations

from phema.shared.telemetry import METRICS
from tests.api.http import Api, problem
from tests.fixtures.catalog import only


@only("sqlite")
def test_anonymous_gets_401(guarded: Api) -> None:
    problem(guarded.anonymous("GET", "/v1/prometheus/targets"), 401, "unauthorized")


def test_living_targets_are_listed_in_http_sd_format(api: Api) -> None:
    assert api.get("/v1/prometheus/targets").json() == []
    with api.catalog.transaction() as tx:
        tx.scrape_targets.register("worker", "127.0.0.1:9001")
        tx.scrape_targets.register("training", "127.0.0.1:9000", {"run_id": "run-1", "odd name": "x"})
    response = api.get("/v1/prometheus/targets")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == [
        {
            "targets": ["127.0.0.1:9000"],
            "labels": {
                "__meta_phema_kind": "training",
                "__meta_phema_run_id": "run-1",
                "__meta_phema_odd_name": "x",
            },
        },
        {"targets": ["127.0.0.1:9001"], "labels": {"__meta_phema_kind": "worker"}},
    ]
    labels = {name for group in response.json() for name in group["labels"]}
    assert not labels & {label for metric in METRICS for label in metric.labels}


def test_a_target_that_said_goodbye_is_gone(api: Api) -> None:
    with api.catalog.transaction() as tx:
        tx.scrape_targets.register("worker", "127.0.0.1:9001")
        tx.scrape_targets.remove("127.0.0.1:9001")
    assert api.get("/v1/prometheus/targets").json() == []
