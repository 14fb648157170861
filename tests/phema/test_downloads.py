"""Downloads: resumed, verified, atomic, and the token stays with the API."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from phema import errors
from phema.client.client import Client
from phema.shared import catalog
from tests.phema.service import Service
from tests.phema.test_client import steps

CONTENT = os.urandom(3_000_000)


@dataclass
class Host:
    """A small HTTP server that serves `content` and misbehaves on request."""

    content: bytes = CONTENT
    digest: str = hashlib.sha256(CONTENT).hexdigest()
    etag: str | None = '"{}"'
    redirect_to: str | None = None
    cut_after: int | None = None
    """Hang up after so many bytes of each answer."""
    ignore_ranges: bool = False
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for method, headers in self.requests if method == "GET"]


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    servers = []

    def start(**behaviour: object) -> Host:
        state = Host(**behaviour)  # type: ignore[arg-type]
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        state.url = f"http://127.0.0.1:{server.server_port}"
        return state

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def handler(state: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            state.requests.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
            if body and state.redirect_to:
                self.send_response(307)
                self.send_header("Location", f"{state.redirect_to}/object?signature=abc")
                self.end_headers()
                return
            start = 0
            wanted = self.headers.get("Range")
            if wanted and not state.ignore_ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(state.content) - start))
            if state.etag is not None:
                self.send_header("ETag", state.etag.format(state.digest))
            self.send_header("Content-Disposition", 'attachment; filename="weights.safetensors"')
            self.end_headers()
            if body:
                rest = state.content[start:]
                self.wfile.write(rest if state.cut_after is None else rest[: state.cut_after])

        def log_message(self, *_arguments: object) -> None:
            """Quiet."""

    return Handler


def test_a_file_from_the_real_service(service: Service, client: Client, trained: catalog.Run, tmp_path: Path) -> None:
    [item] = client.reconstruct(trained.name, 0.1, on_progress=steps(lambda: service.reconstruct(CONTENT)))
    seen: list[tuple[int, int | None]] = []
    path = client.download(item.id, tmp_path / "a.bin", on_progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "a.bin"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    named = client.download(item.id, tmp_path)
    assert named.name == f"{trained.name}-25600-0.1.safetensors"
    assert client.download(item.id) == Path.cwd() / named.name
    snapshot = client.runs.snapshots(trained.name)[0]
    assert client.download(snapshot.id, tmp_path / "s").stat().st_size == snapshot.size
    assert sorted(tmp_path.iterdir()) == sorted([path, named, tmp_path / "s"])


def test_a_download_of_what_is_not_there_yet(client: Client, trained: catalog.Run, tmp_path: Path) -> None:
    [item] = client.reconstruct(trained.name, 0.1, wait=False)
    with pytest.raises(errors.Conflict, match="queued"):
        client.download(item.id, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_service_is_quoted_with_its_request(
    service: Service, client: Client, trained: catalog.Run, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    snapshot = client.runs.snapshots(trained.id)[0]
    with service.catalog.transaction() as tx:
        service.store.delete(tx.snapshots.get(snapshot.id).key)
    with pytest.raises(errors.ServiceError) as raised:
        client.download(snapshot.id, tmp_path)
    assert raised.value.status == 500
    assert str(raised.value).startswith(f"the service at {service.url} failed: ")
    assert re.fullmatch("req-[0-9a-f]{16}", str(raised.value.request_id))
    assert str(raised.value).endswith(f" (request {raised.value.request_id})")
    code, _, err = cli("download", snapshot.id)
    assert code == 1
    assert re.search(r"\(request req-[0-9a-f]{16}\)\n$", err)


def test_resumes_within_and_between_processes(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host(cut_after=1_000_000)
    with Client(server.url) as client:
        path = client.download("rec-1", tmp_path)
        assert path.read_bytes() == CONTENT
        assert server.ranges == [None, "bytes=1000000-", "bytes=2000000-"]
        path.unlink()

        # A process that died half-way left this; the next one asks for the rest alone.
        part = tmp_path / f".weights.safetensors.{server.digest[:16]}.part"
        part.write_bytes(CONTENT[:2_500_000])
        server.requests.clear()
        assert client.download("rec-1", tmp_path).read_bytes() == CONTENT
        assert server.ranges == ["bytes=2500000-"]
        assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]

        # What is there and whole is not fetched again.
        server.requests.clear()
        client.download("rec-1", tmp_path)
        assert server.ranges == []


def test_a_server_without_ranges_starts_over(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host(ignore_ranges=True)
    (tmp_path / f".weights.safetensors.{server.digest[:16]}.part").write_bytes(b"old")
    with Client(server.url) as client:
        assert client.download("rec-1", tmp_path).read_bytes() == CONTENT


def test_gives_up_when_nothing_comes_and_keeps_what_came(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host(cut_after=1_000_000)
    with Client(server.url) as client:
        client.download("rec-1", tmp_path / "first")
        server.cut_after = 0
        part = tmp_path / f".second.{server.digest[:16]}.part"
        part.write_bytes(CONTENT[:10])
        with pytest.raises(errors.DownloadError, match="broke off at 10 of 3000000 bytes; the same command resumes it"):
            client.download("rec-1", tmp_path / "second")
        assert part.read_bytes() == CONTENT[:10]
        assert not (tmp_path / "second").exists()


def test_damaged_bytes_never_get_the_name(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host(digest="0" * 64)
    (tmp_path / "weights.safetensors").write_bytes(b"the old ones")
    with Client(server.url) as client, pytest.raises(errors.DownloadError, match="arrived damaged: SHA-256"):
        client.download("rec-1", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
    assert (tmp_path / "weights.safetensors").read_bytes() == b"the old ones"


def test_a_weak_hash_from_a_proxy_is_verified_too(host: Callable[..., Host], tmp_path: Path) -> None:
    """nginx makes ETag weak when it compresses."""
    server = host(digest="0" * 64, etag='W/"{}"')
    with Client(server.url) as client, pytest.raises(errors.DownloadError, match="arrived damaged: SHA-256"):
        client.download("rec-1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_without_a_hash_are_refused(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host(etag=None)
    with Client(server.url) as client:
        for identity in ("rec-1", "snap-1"):
            with pytest.raises(
                errors.DownloadError, match=r"does not name the SHA-256 of weights\.safetensors in the ETag"
            ):
                client.download(identity, tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert client.download("eval-1", tmp_path).read_bytes() == CONTENT


def test_a_leftover_longer_than_the_file_is_dropped(host: Callable[..., Host], tmp_path: Path) -> None:
    server = host()
    (tmp_path / f".weights.safetensors.{server.digest[:16]}.part").write_bytes(CONTENT + b"more")
    server.ignore_ranges = True
    with Client(server.url) as client:
        assert client.download("rec-1", tmp_path).read_bytes() == CONTENT


def test_the_bucket_never_sees_the_token(host: Callable[..., Host], tmp_path: Path) -> None:
    bucket = host(cut_after=2_000_000)
    front = host(redirect_to=bucket.url)
    with Client(front.url, token="secret") as client:
        assert client.download("rec-1", tmp_path).read_bytes() == CONTENT
    assert all(headers["authorization"] == "Bearer secret" for _, headers in front.requests)
    assert bucket.ranges == [None, "bytes=2000000-"]
    assert not any("authorization" in headers or "cookie" in headers for _, headers in bucket.requests)


def test_a_folder_that_is_not_there(host: Callable[..., Host], tmp_path: Path) -> None:
    with Client(host().url) as client, pytest.raises(errors.InvalidArgument, match="is no folder to download into"):
        client.download("rec-1", tmp_path / "none" / "file")


def test_from_s3_through_a_guarded_api(s3_service: Service, tmp_path: Path) -> None:
    """The whole way: token to the API, presigned URL to the bucket, resumed, verified."""
    with Client(s3_service.url, "secret") as client:
        run = client.runs.create("remote")
        with s3_service.catalog.transaction() as tx:
            found = tx.runs.get(run.id)
        s3_service.snapshot(found, times=[3200], data=CONTENT)
        snapshot = client.runs.snapshots("remote")[0]
        target = tmp_path / "weights"
        (tmp_path / f".weights.{snapshot.sha256[:16]}.part").write_bytes(CONTENT[:1_234_567])
        seen: list[int] = []
        assert client.download(snapshot.id, target, on_progress=lambda done, _: seen.append(done)) == target
        assert seen[0] == 1_234_567
        assert target.read_bytes() == CONTENT
