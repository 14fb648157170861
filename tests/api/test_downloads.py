"""Files: ranged streams from a local folder, redirects to S3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from phema.services.api.http.downloads import CHUNK_BYTES
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.s3.store import S3Store
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

SIZE = 2 * CHUNK_BYTES + 1000
# Files do not depend on the database; the catalog's own queries are tested on both elsewhere.
pytestmark = only("sqlite")


@pytest.fixture
def path(api: Api) -> str:
    """Of a downloadable snapshot of more than two chunks."""
    run = seed.run(api.catalog)
    (identity,) = seed.snapshots(api.catalog, api.store, run.id, [3200], [0.05], SIZE)
    return f"/v1/snapshots/{identity}/download"


@pytest.fixture
def data(api: Api, path: str) -> bytes:
    return api.store.get(_key(api, path))


def _key(api: Api, path: str) -> str:
    with api.catalog.transaction() as tx:
        return tx.snapshots.get(path.split("/")[3]).key


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_anonymous_gets_401(guarded: Api, method: str) -> None:
    run = seed.run(guarded.catalog)
    (identity,) = seed.snapshots(guarded.catalog, guarded.store, run.id, [3200], [0.05])
    assert guarded.anonymous(method, f"/v1/snapshots/{identity}/download").status_code == 401
    assert guarded.request(method, f"/v1/snapshots/{identity}/download").status_code == 200


def test_the_whole_file(api: Api, path: str, data: bytes) -> None:
    response = api.get(path)
    sha256 = hashlib.sha256(data)
    assert response.status_code == 200
    assert response.content == data
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["etag"] == f'"{sha256.hexdigest()}"'
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert response.headers["content-disposition"] == 'attachment; filename="digits-3200-0.05.safetensors"'
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["accept-ranges"] == "bytes"


def test_head_has_the_headers_and_no_body(api: Api, path: str) -> None:
    same = {"X-Request-ID": "twice"}
    got, head = api.get(path, headers=same), api.request("HEAD", path, headers=same)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


@pytest.mark.parametrize(
    ("given", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (f"bytes=5-{SIZE + 99}", 5, SIZE),
        (f"bytes=-{SIZE + 99}", 0, SIZE),
    ],
)
def test_a_range(api: Api, path: str, data: bytes, given: str, start: int, stop: int) -> None:
    response = api.get(path, headers={"Range": given})
    assert response.status_code == 206
    assert response.content == data[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "given", ["bytes=0-1,5-6", "bytes=", "bytes=-", "items=0-1", "bytes=9-3", f"bytes={'9' * 30}-"]
)
def test_a_range_that_is_none_gets_the_whole_file(api: Api, path: str, given: str) -> None:
    response = api.get(path, headers={"Range": given})
    assert (response.status_code, len(response.content)) == (200, SIZE)


@pytest.mark.parametrize("given", [f"bytes={SIZE}-", "bytes=-0"])
def test_a_range_behind_the_end_is_416(api: Api, path: str, given: str) -> None:
    response = api.get(path, headers={"Range": given})
    problem(response, 416, "range-not-satisfiable")
    assert response.headers["content-range"] == f"bytes */{SIZE}"


def test_a_download_goes_on_only_with_the_same_file(api: Api, path: str) -> None:
    etag = api.request("HEAD", path).headers["etag"]
    same = api.get(path, headers={"Range": "bytes=10-", "If-Range": etag})
    assert (same.status_code, len(same.content)) == (206, SIZE - 10)
    other = api.get(path, headers={"Range": "bytes=10-", "If-Range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, SIZE)


def test_what_the_client_has_is_not_sent_again(api: Api, path: str) -> None:
    etag = api.request("HEAD", path).headers["etag"]
    response = api.get(path, headers={"If-None-Match": f'"x", {etag}'})
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)


def test_a_truncated_snapshot_is_refused_before_a_byte_is_sent(api: Api, path: str) -> None:
    file = api.store.local_path(_key(api, path))
    assert file is not None
    with file.open("r+b") as opened:
        opened.truncate(SIZE - 1)
    document = problem(api.get(path), 500, "damaged-object")
    assert f"holds {SIZE - 1} bytes where {SIZE} were written" in document["detail"]
    file.unlink()
    assert "is missing from the store" in problem(api.get(path), 500, "damaged-object")["detail"]


def test_a_reconstruction_and_its_pictures(api: Api) -> None:
    row = seed.reconstruction(api.catalog, api.store, seed.run(api.catalog).id)
    weights = api.get(f"/v1/reconstructions/{row.id}/download")
    assert weights.headers["etag"] == f'"{row.sha256}"'
    assert 'filename="digits-25600-0.07.safetensors"' in weights.headers["content-disposition"]
    asked = api.post("/v1/evaluations", {"reconstruction_id": row.id}).json()
    seed.finish_evaluation(api.catalog, api.store, {"frechet": 1.0}, b"\x89PNG ...")
    pictures = api.get(f"/v1/evaluations/{asked['id']}/pictures")
    assert (pictures.status_code, pictures.content) == (200, b"\x89PNG ...")
    assert pictures.headers["content-type"] == "image/png"
    assert pictures.headers["etag"] == f'"{hashlib.sha256(pictures.content).hexdigest()}"'
    assert pictures.headers["content-disposition"] == f'inline; filename="{asked["id"]}.png"'
    part = api.get(f"/v1/evaluations/{asked['id']}/pictures", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")


@pytest.fixture
def on_s3(open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any]) -> Api:
    return open_api(settings.model_copy(update=s3_settings))


def _files(api: Api, num_bytes: int) -> dict[str, str]:
    """Path -> object key of one download of each kind."""
    run = seed.run(api.catalog)
    (snapshot,) = seed.snapshots(api.catalog, api.store, run.id, [3200], [0.05], num_bytes)
    row = seed.reconstruction(api.catalog, api.store, run.id)
    asked = api.post("/v1/evaluations", {"reconstruction_id": row.id}).json()
    evaluation = seed.finish_evaluation(api.catalog, api.store, {"frechet": 1.0})
    with api.catalog.transaction() as tx:
        snapshot_key = tx.snapshots.get(snapshot).key
    assert row.key is not None
    assert evaluation.pictures_key is not None
    return {
        f"/v1/snapshots/{snapshot}/download": snapshot_key,
        f"/v1/reconstructions/{row.id}/download": row.key,
        f"/v1/evaluations/{asked['id']}/pictures": evaluation.pictures_key,
    }


def test_s3_serves_its_own_bytes(on_s3: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 5: the API signs and never reads."""
    files = _files(on_s3, SIZE)
    stored = {path: on_s3.store.get(key) for path, key in files.items()}

    def read(*_: object) -> None:
        raise AssertionError("the API read an object's bytes")

    for method in ("get", "read_into", "read_range"):
        monkeypatch.setattr(S3Store, method, read)
    for path, content in stored.items():
        answer = on_s3.get(path)
        assert (answer.status_code, answer.content) == (307, b"")
        assert answer.headers["cache-control"] == "no-store"
        # A plain client without any credentials of ours.
        with httpx.Client() as client:
            whole = client.get(answer.headers["location"])
            part = client.get(answer.headers["location"], headers={"Range": "bytes=1-4"})
        assert whole.content == content
        assert (part.status_code, part.content) == (206, content[1:5])
        assert path.split("/")[3].partition("-")[0] in ("snap", "rec", "eval")
        assert "filename" in whole.headers["content-disposition"]
        head = on_s3.request("HEAD", path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))


def test_s3_presigns_for_the_address_users_reach(
    open_api: Callable[[Settings], Api], settings: Settings, s3_settings: dict[str, Any]
) -> None:
    public = {"s3_public_endpoint_url": "https://bucket.example", "download_url_seconds": 60}
    api = open_api(settings.model_copy(update={**s3_settings, **public}))
    for path in _files(api, 64):
        location = httpx.URL(api.get(path).headers["location"])
        assert location.host == "bucket.example"
        assert location.params["X-Amz-Expires"] == "60"


def test_a_truncated_snapshot_on_s3_is_not_signed(on_s3: Api, s3_bucket: str, s3_server: Any) -> None:
    run = seed.run(on_s3.catalog)
    (identity,) = seed.snapshots(on_s3.catalog, on_s3.store, run.id, [3200], [0.05])
    path = f"/v1/snapshots/{identity}/download"
    key = f"store/{_key(on_s3, path)}"
    client = s3_server.client()
    client.put_object(Bucket=s3_bucket, Key=key, Body=b"short")
    assert "holds 5 bytes where 64 were written" in problem(on_s3.get(path), 500, "damaged-object")["detail"]
    client.delete_object(Bucket=s3_bucket, Key=key)
    client.close()
    assert "missing" in problem(on_s3.get(path), 500, "damaged-object")["detail"]
