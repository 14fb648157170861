"""Every error has the same shape, wherever it is raised."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from phema.services.api.http import problems
from phema.services.api.http.body_limit import MAX_BODY_BYTES
from phema.shared.catalog.pagination import encode_cursor
from phema.shared.settings import Settings
from phema.shared.snapshots.errors import BucketMissing, SnapshotError, StoreDenied, StoreUnreachable
from phema.shared.snapshots.stores.local.store import LocalStore
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

JSON = {"Content-Type": "application/json"}
ROOT = Path(__file__).parents[2]


@only("sqlite")
def test_an_unknown_path_is_404(api: Api) -> None:
    assert "/v2/runs" in problem(api.get("/v2/runs"), 404, "not-found")["detail"]
    # No path has two spellings.
    problem(api.get("/v1/runs/"), 404, "not-found")


@only("sqlite")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/runs", "GET, POST"),
        ("POST", "/v1/snapshots/s/download", "GET, HEAD"),
        ("FOO", "/healthz", "GET"),
        ("PUT", "/v1/runs/digits", "DELETE, GET"),
        ("GET", "/v1/runs/external", "POST"),
        ("DELETE", "/v1/runs/external", "POST"),
    ],
)
def test_another_method_is_405_with_those_that_exist(api: Api, method: str, path: str, allowed: str) -> None:
    response = api.request(method, path)
    assert f"allowed: {allowed}" in problem(response, 405, "method-not-allowed")["detail"]
    assert response.headers["allow"] == allowed


@only("sqlite")
@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b"{", JSON, "the body is not JSON: Expecting property name"),
        (b'{"name": "\xff"}', JSON, "the body must be JSON in UTF-8"),
        (b"[1]", JSON, "the body must be a JSON object"),
        (b"[" * 100_000, JSON, "the body"),
        (b'{"a":' * 66 + b"1" + b"}" * 66, JSON, "the body is nested deeper than 65 levels"),
        ('{"name": "a"}'.encode("utf-16"), JSON, "the body must be JSON in UTF-8"),
        (b'{"name": "\xed\xa0\x80"}', JSON, "the body must be JSON in UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_is_400(api: Api, content: bytes, headers: dict[str, str], words: str) -> None:
    response = api.request("POST", "/v1/runs", content=content, headers=headers)
    assert words in problem(response, 400, "bad-request")["detail"]


@only("sqlite")
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/x+json", ""])
def test_a_body_that_is_not_declared_as_json_is_415(guarded: Api, media_type: str) -> None:
    for content in (b'{"name": "a"}', b""):
        answer = guarded.request("POST", "/v1/runs", content=content, headers={"Content-Type": media_type})
        assert "must be application/json" in problem(answer, 415, "unsupported-media-type")["detail"]
    undeclared = guarded.request("POST", "/v1/runs", content=b'{"name": "a"}')
    assert "Content-Type is missing" in problem(undeclared, 415, "unsupported-media-type")["detail"]
    with_charset = {"Content-Type": "application/json; charset=UTF-8"}
    problem(guarded.request("POST", "/v1/runs", content=b'{"name": "a"}', headers=with_charset), 422, "invalid")


@only("sqlite")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/runs", rb'{"name": "\ud800", "preset": "digits-tiny"}', "name"),
        (
            "/v1/runs",
            rb'{"name": "a", "preset": "digits-tiny", "config": {"dataset": {"path": "/\uDFFF"}}}',
            "dataset.path",
        ),
        ("/v1/runs", rb'{"name": "a", "preset": "\ud800\ud800"}', "preset"),
        ("/v1/runs", rb'{"\ud800": 1}', "the body"),
        ("/v1/runs/external", rb'{"name": "a", "config": {"\udc00": 1}}', "config"),
        ("/v1/runs/external", rb'{"name": "a", "config": {"a": [{"b": "\udc00"}]}}', "config.a.0.b"),
        ("/v1/runs/r/pins", rb'{"snapshot_ids": ["\ud800"]}', "snapshot_ids.0"),
        ("/v1/runs/r/reconstructions", rb'{"sigma_rel": "\ud800"}', "sigma_rel"),
        ("/v1/evaluations", rb'{"reconstruction_id": "\ud800"}', "reconstruction_id"),
        ("/v1/runs/r/retention", rb'{"policy": "\ud800"}', "policy"),
    ],
)
def test_half_a_surrogate_pair_is_422(api: Api, path: str, body: bytes, field: str) -> None:
    answer = api.request("POST", path, content=body, headers=JSON)
    assert f"{field} holds half a surrogate pair" in problem(answer, 422, "invalid")["detail"]


@only("sqlite")
def test_a_whole_surrogate_pair_is_text(api: Api) -> None:
    body = rb'{"name": "a", "config": {"note": "\ud83d\ude00 \\ud800"}}'
    answer = api.request("POST", "/v1/runs/external", content=body, headers=JSON)
    assert answer.json()["config"] == {"note": "\U0001f600 \\ud800"}


@only("sqlite")
def test_no_body_at_all_is_422(api: Api) -> None:
    assert problem(api.request("POST", "/v1/runs"), 422, "invalid")["detail"] == "body is missing"


@only("sqlite")
def test_a_body_that_is_too_long_is_413(api: Api) -> None:
    content = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    announced = api.request("POST", "/v1/runs", content=content, headers=JSON)
    assert f"at most {MAX_BODY_BYTES} bytes" in problem(announced, 413, "too-large")["detail"]

    async def chunks() -> Any:
        for _ in range(3):
            yield content[: MAX_BODY_BYTES // 2]

    problem(api.request("POST", "/v1/runs", content=chunks(), headers=JSON), 413, "too-large")


@only("sqlite")
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/digits", "/v1/presets", "/healthz", "/metrics"])
def test_unknown_query_parameters_are_refused(api: Api, path: str) -> None:
    document = problem(api.get(path, params={"limti": "1"}), 422, "invalid")
    assert document["errors"][0] == {"place": "query", "field": "limti", "detail": document["detail"]}
    assert document["detail"].startswith("limti is not known here; ")


@only("sqlite")
def test_a_body_where_none_belongs_is_refused(api: Api) -> None:
    seed.run(api.catalog)
    assert api.post("/v1/runs/digits/cancel", {}).status_code == 200
    document = problem(api.post("/v1/runs/digits/cancel", {"force": True}), 422, "invalid")
    assert document["detail"] == "/v1/runs/digits/cancel takes no body; send none"


@only("sqlite")
def test_of_many_wrong_fields_the_first_are_listed(api: Api) -> None:
    body = {"name": "a", "preset": "digits-tiny", **{f"x{i}": i for i in range(500)}}
    document = problem(api.post("/v1/runs", body), 422, "invalid")
    assert len(document["errors"]) == 20
    assert document["detail"].endswith("; and 480 more")


@only("sqlite")
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"limit": "0"}, 'limit "0" must be greater than or equal to 1'),
        ({"limit": "501"}, 'limit "501" must be less than or equal to 500'),
        ({"limit": "many"}, 'limit "many" must be a valid integer'),
        ({"cursor": "x"}, "cursor 'x' is not one this service gave out"),
        ({"cursor": "WzFd" * 101}, "must have at most 400 characters"),
        ({"cursor": encode_cursor(10**30)}, "is not one this service gave out"),
    ],
)
def test_a_wrong_page_is_refused(api: Api, params: dict[str, str], words: str) -> None:
    for path in ("/v1/runs", "/v1/jobs", "/v1/evaluations"):
        assert words in problem(api.get(path, params=params), 422, "invalid")["detail"]


def test_a_cursor_of_half_a_surrogate_pair_is_refused(api: Api) -> None:
    seed.run(api.catalog)
    answer = api.get("/v1/runs/digits/snapshots", params={"cursor": encode_cursor(1, 1.0, "\ud800")})
    assert "is not one this service gave out" in problem(answer, 422, "invalid")["detail"]


@only("sqlite")
@pytest.mark.parametrize("path", ["/v1/runs/a%00b", "/v1/runs/%2e%2e", "/v1/jobs/" + "x" * 101, "/v1/runs/a%20b"])
def test_what_can_be_no_id_is_refused(api: Api, path: str) -> None:
    response = api.get(path)
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_an_absent_database_is_503(open_api: Callable[[Settings], Api], settings: Settings, database: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = {
            "sqlite": f"sqlite:///{settings.state_dir}/nowhere/catalog.db",
            "postgres": f"postgresql://phema:secret-word@127.0.0.1:{unused.getsockname()[1]}/phema",
        }[database]
        api = open_api(settings.model_copy(update={"database_url": url}))
        for response in (api.get("/v1/runs"), api.post("/v1/runs", {"name": "a", "preset": "digits-tiny"})):
            document = problem(response, 503, "unavailable")
            assert "secret-word" not in response.text
            assert response.headers["retry-after"] == "5"
            assert document["detail"].startswith("The catalog at ")


@only("postgres")
def test_a_wrong_database_password_is_503(open_api: Callable[[Settings], Api], settings: Settings) -> None:
    wrong = settings.database_url.replace("a-test-password", "a-wrong-password")
    assert wrong != settings.database_url
    api = open_api(settings.model_copy(update={"database_url": wrong}))
    document = problem(api.get("/v1/runs"), 503, "unavailable")
    assert "password authentication failed" in document["detail"]
    assert "a-wrong-password" not in document["detail"]


def test_a_catalog_without_tables_is_503_with_the_way_out(
    open_api: Callable[[Settings], Api], settings: Settings, empty_url: str, database: str
) -> None:
    if database == "sqlite":
        Path(empty_url.removeprefix("sqlite:///")).with_name("empty.db").touch()
        empty_url = empty_url.replace("catalog.db", "empty.db")
    api = open_api(settings.model_copy(update={"database_url": empty_url}))
    assert "phema db upgrade" in problem(api.get("/v1/runs"), 503, "unavailable")["detail"]


def _snapshot_path(api: Api) -> str:
    """Of a snapshot whose row was written while the store could be used."""
    run = seed.run(api.catalog)
    local = LocalStore(Path(api.app.state.services.settings.state_dir) / "elsewhere")
    (identity,) = seed.snapshots(api.catalog, local, run.id, [3200], [0.05])
    return f"/v1/snapshots/{identity}/download"


@only("sqlite")
def test_a_missing_bucket_is_503(
    open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any]
) -> None:
    api = open_api(settings.model_copy(update={**s3_settings, "store_url": "s3://no-such-bucket/store"}))
    document = problem(api.get(_snapshot_path(api)), 503, "unavailable")
    assert "no-such-bucket" in document["detail"]
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["catalog"]["ok"], ready.json()["store"]["ok"]) == (503, True, False)
    assert "no-such-bucket" in ready.json()["store"]["detail"]


@only("sqlite")
def test_an_absent_store_is_503(
    open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        api = open_api(settings.model_copy(update={**s3_settings, "s3_endpoint_url": endpoint}))
        assert endpoint in problem(api.get(_snapshot_path(api)), 503, "unavailable")["detail"]


@only("sqlite")
def test_wrong_credentials_are_503(
    open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any], s3_server: Any
) -> None:
    if not s3_server.checks_secrets:
        pytest.skip("this S3 emulator accepts every secret; PHEMA_TEST_S3=rgw checks them")
    wrong = {**s3_settings, "s3_secret_access_key": SecretStr("wrong-secret")}
    api = open_api(settings.model_copy(update=wrong))
    document = problem(api.get(_snapshot_path(api)), 503, "unavailable")
    assert "wrong-secret" not in document["detail"]


@only("sqlite")
@pytest.mark.parametrize("error", [BucketMissing, StoreDenied, StoreUnreachable])
def test_whatever_the_store_says_is_503(api: Api, monkeypatch: pytest.MonkeyPatch, error: type[SnapshotError]) -> None:
    def refuse(*_: object) -> None:
        raise error("the store says no")

    path = _snapshot_path(api)
    monkeypatch.setattr(LocalStore, "head", refuse)
    assert problem(api.get(path), 503, "unavailable")["detail"] == "the store says no"


@only("sqlite")
def test_a_fault_of_phema_is_500_and_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr("phema.services.api.runs.service.to_run", fail)
    response = api.post("/v1/runs", {"name": "a", "preset": "digits-tiny"})
    assert "secret" not in problem(response, 500, "internal")["detail"]
    assert "a secret of the house" in caplog.text
    # Nothing is half-written.
    with api.catalog.transaction() as tx:
        assert tx.runs.list().items == []
        assert tx.jobs.list().items == []


def test_the_tree_is_drawn_in_one_docstring() -> None:
    assert problems.__doc__ is not None
    drawn = [line.split("── ")[1].split()[0] for line in problems.__doc__.splitlines() if "── " in line]
    assert drawn == [cls.__name__ for cls in problems.all_problems()]


def test_every_kind_of_problem_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for cls in problems.all_problems():
        assert f"| `{cls.kind}` | {cls.status} |" in text
