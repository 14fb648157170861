"""A request's id: in its answer, in the log of the real process, and on the jobs that it creates."""

from __future__ import annotations

import json
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from phema.shared.catalog import JobKind
from phema.shared.settings import Settings
from phema.shared.telemetry import LOG_FIELDS
from tests.api import seed
from tests.api.conftest import TOKEN
from tests.api.http import Api, problem
from tests.api.process import running
from tests.fixtures.catalog import only
from tests.fixtures.ray import POSTGRES_PASSWORD

MADE = re.compile(r"req-[0-9a-f]{16}")
RUN = {"name": "digits", "preset": "digits-tiny"}


def lines(err: str) -> list[dict[str, Any]]:
    """Every line that a process wrote: each one is JSON with documented fields."""
    found = [json.loads(line) for line in err.splitlines()]
    assert all(set(line) <= set(LOG_FIELDS) for line in found)
    return found


@only("sqlite")
def test_one_line_for_each_request_with_its_id(settings: Settings, tmp_path: Path) -> None:
    with running(settings.model_copy(update={"api_token": SecretStr(TOKEN)})) as api:
        asked = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "proxy-7/a:1", "Idempotency-Key": "k"}
        created = httpx.post(f"{api.url}/v1/runs", json=RUN, headers=asked)
        again = httpx.post(f"{api.url}/v1/runs", json=RUN, headers=asked | {"X-Request-ID": "proxy-8"})
        stranger = httpx.get(f"{api.url}/v1/runs")
        (tmp_path / "store").rename(tmp_path / "gone")
        (tmp_path / "store").write_text("a file where the folder should be")
        with ThreadPoolExecutor(4) as pool:  # at the same time, and each in a thread of the API's
            answers = list(
                pool.map(lambda i: httpx.get(f"{api.url}/readyz", headers={"X-Request-ID": f"probe-{i}"}), range(12))
            )
        code, _, err = api.stop()
    assert code == 0
    assert [answer.headers["x-request-id"] for answer in (created, again)] == ["proxy-7/a:1", "proxy-8"]
    assert created.json()["job"]["request_id"] == "proxy-7/a:1"
    assert again.content == created.content, "the job remembers who asked first"
    refused = problem(stranger, 401, "unauthorized")
    assert MADE.fullmatch(refused["request_id"])
    assert [answer.status_code for answer in answers] == [503] * 12

    found = lines(err)
    access = [
        line
        for line in found
        if line["logger"] == "phema.services.api.http.request_metrics" and "probe" not in line["request_id"]
    ]
    fields = ("method", "route", "status", "request_id")
    assert [tuple(line[name] for name in fields) for line in access] == [
        ("POST", "/v1/runs", 201, "proxy-7/a:1"),
        ("POST", "/v1/runs", 201, "proxy-8"),
        ("GET", "none", 401, refused["request_id"]),
    ]
    assert all(0 < line["seconds"] < 60 for line in access)
    for i in range(12):
        about = [line for line in found if line.get("request_id") == f"probe-{i}"]
        assert sorted(line["logger"] for line in about) == [
            "phema.services.api.health.service",
            "phema.services.api.http.request_metrics",
        ]


@only("sqlite")
@pytest.mark.parametrize("given", [None, "", "x" * 129, "two words", 'a"b', "a\\nb", "ü".encode(), "-rf"])
def test_an_id_that_cannot_be_used_is_replaced(api: Api, given: str | bytes | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    answers = [api.get("/healthz", headers=headers) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(MADE.fullmatch(request_id) for request_id in ids)
    assert ids[0] != ids[1]


@only("sqlite")
@pytest.mark.parametrize(
    "given", ["x" * 128, "6f1c1d8e-8f0a-4f6e-9a44-0242ac120002", "Root=1-67891233-abcdef0123456789"]
)
def test_a_usable_id_comes_back_in_errors_too(api: Api, given: str) -> None:
    for path, status, kind in (("/v1/runs/nobody", 404, "not-found"), ("/v1/runs?limit=0", 422, "invalid")):
        response = api.get(path, headers={"X-Request-ID": given})
        assert response.headers["x-request-id"] == problem(response, status, kind)["request_id"] == given


def test_every_kind_of_job_remembers_its_request(api: Api) -> None:
    def ask(request_id: str, path: str, body: Any = None) -> Any:
        answer = api.post(path, body, headers={"X-Request-ID": request_id})
        assert answer.is_success, answer.text
        return answer.json()

    run = ask("creates", "/v1/runs", RUN)
    ask("cancels", "/v1/runs/digits/cancel")
    ask("resumes", "/v1/runs/digits/resume")
    training = seed.claim(api.catalog, JobKind.TRAIN)
    with api.catalog.transaction() as tx:
        tx.leases.succeed(training.id, training.fence, {})
    ask("resumes-what-is-done", "/v1/runs/digits/resume")
    seed.snapshots(api.catalog, api.store, run["id"])
    ask("reconstructs", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.07})
    ask("joins", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.07})
    (weights,) = seed.finish_reconstructions(api.catalog, api.store)
    ask("evaluates", "/v1/evaluations", {"reconstruction_id": weights.id})
    ask("compacts", "/v1/runs/digits/bases", {})
    seed.finish_basis(api.catalog, api.store)
    ask("retains", "/v1/runs/digits/retention", {"policy": "basis", "dry_run": False, "force": True})
    ask("opens", "/v1/runs/external", {"name": "mine"})
    assert [(job["kind"], job["request_id"]) for job in reversed(api.all("/v1/jobs"))] == [
        ("train", "creates"),
        ("train", "resumes"),
        ("reconstruct", "reconstructs"),
        ("evaluate", "evaluates"),
        ("compact", "compacts"),
        ("retain", "retains"),
        ("external", None),
    ]


@only("postgres")
def test_no_secret_is_logged(settings: Settings, s3_settings: dict[str, Any], s3_server: Any) -> None:
    """At the finest level, on real servers, with requests that succeed, are refused and fail."""
    s3_secret = s3_server.secret_access_key if s3_server.checks_secrets else secrets.token_hex(16)
    given = {**s3_settings, "s3_secret_access_key": SecretStr(s3_secret)}
    given |= {"api_token": SecretStr(TOKEN), "log_level": "debug"}
    with running(settings.model_copy(update=given)) as api:
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{api.url}/readyz", headers=right).status_code == 200
        assert httpx.post(f"{api.url}/v1/runs", json=RUN, headers=right).status_code == 201
        assert httpx.post(f"{api.url}/v1/runs", json={"name": TOKEN}, headers=right).status_code == 422
        wrong = {"Authorization": "Bearer a-wrong-token"}
        assert httpx.get(f"{api.url}/v1/runs", headers=wrong).status_code == 401
        code, out, err = api.stop()
    assert code == 0
    found = lines(err)
    assert {line["level"] for line in found} >= {"debug", "info"}
    for secret in (TOKEN, "a-wrong-token", s3_secret, POSTGRES_PASSWORD):
        assert secret not in out + err
