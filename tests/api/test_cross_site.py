"""An API without a token serves this machine only, and no web page of another site."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx
import pytest

from phema.shared.settings import Settings
from tests.api import seed
from tests.api.http import Api, problem
from tests.api.process import running
from tests.fixtures.catalog import only

pytestmark = only("sqlite")

HOSTS = ("localhost", "localhost:8400", "LOCALHOST", "127.0.0.1:80", "127.1.2.3", "[::1]:8400", "localhost.:1")
FOREIGN_HOSTS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.nip.io:8400",
    "192.168.1.4",
    "[fe80::1]",
    "a@b",
    "",
)


@pytest.mark.parametrize("host", HOSTS)
def test_loopback_hosts_are_served(api: Api, host: str) -> None:
    assert api.get("/v1/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_other_hosts_are_refused(api: Api, host: str) -> None:
    for path in ("/v1/runs", "/healthz", "/openapi.json", "/docs"):
        detail = problem(api.get(path, headers={"Host": host}), 403, "forbidden")["detail"]
        assert f"Host is {host!r}" in detail
        assert "api_allowed_hosts" in detail


def test_a_setting_allows_other_hosts(open_api: Callable[[Settings], Api], settings: Settings) -> None:
    api = open_api(settings.model_copy(update={"api_allowed_hosts": "phema.internal, Other"}))
    for host in ("phema.internal", "PHEMA.internal:443", "other", "localhost"):
        assert api.get("/v1/runs", headers={"Host": host}).status_code == 200
    problem(api.get("/v1/runs", headers={"Host": "evil.example"}), 403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(api: Api, headers: dict[str, str]) -> None:
    seed.run(api.catalog)
    refused = problem(api.post("/v1/runs/digits/cancel", headers=headers), 403, "forbidden")
    assert "sent this POST" in refused["detail"]
    assert api.get("/v1/runs/digits").json()["state"] == "queued"
    # A link from another site may open a page.
    assert api.get("/v1/runs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://localhost"}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}],
)
def test_programs_and_the_page_docs_may_post(api: Api, headers: dict[str, str]) -> None:
    seed.run(api.catalog)
    assert api.post("/v1/runs/digits/cancel", headers=headers).json()["state"] == "cancelled"


def test_with_a_token_any_name_and_origin_will_do(guarded: Api) -> None:
    headers = {"Host": "phema.example", "Origin": "https://another.example"}
    assert guarded.get("/v1/runs", headers=headers).status_code == 200
    problem(guarded.post("/v1/runs", {}, headers=headers), 422, "invalid")


def test_a_form_cannot_cancel_a_run_of_the_real_service(settings: Settings) -> None:
    """What a browser sends for `<form method=post action=http://127.0.0.1:8400/v1/runs/mine/cancel>`."""
    with running(settings) as api:
        assert httpx.post(f"{api.url}/v1/runs/external", json={"name": "mine"}).status_code == 201
        cancel = f"{api.url}/v1/runs/mine/cancel"
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://evil.example"}
        assert httpx.post(cancel, headers=form).status_code == 403
        assert httpx.post(cancel, headers={"Content-Type": "text/plain"}).status_code == 415
        rebound = httpx.get(f"{api.url}/v1/runs", headers={"Host": f"evil.example:{httpx.URL(api.url).port}"})
        assert rebound.status_code == 403
        assert httpx.get(f"{api.url}/v1/runs/mine").json()["state"] == "running"

        # Two lengths: what follows the shorter body must not count as a second request.
        with socket.create_connection(("127.0.0.1", httpx.URL(api.url).port or 0)) as raw:
            raw.sendall(
                b"POST /v1/runs/mine/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
                b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n0\r\n\r\n"
                b"POST /v1/runs/mine/cancel HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.count(b"HTTP/1.1") == 1
        assert b" 400 " in answer.splitlines()[0]
        assert b"Content-Length and Transfer-Encoding" in answer
        assert httpx.get(f"{api.url}/v1/runs/mine").json()["state"] == "running"
