"""The real process: how it starts, how it ends, and what a kill -9 leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from phema.services.api.http.server import listen
from phema.shared.catalog import Catalog, JobKind
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.wiring import store_from
from tests.api import seed
from tests.api.process import ROOT, ApiProcess, environment, running
from tests.fixtures.catalog import only

RUN = {"name": "digits", "preset": "digits-tiny"}
LIGHT_PATHS = (
    *("/v1/runs", "/v1/runs/digits/snapshots", "/v1/runs/digits/metrics", "/v1/jobs", "/v1/presets", "/v1/evaluations"),
    *("/readyz", "/metrics", "/v1/prometheus/targets", "/openapi.json"),
)
SERVE_IN_PROCESS = """
import asyncio, json, sys
import httpx
from phema.services.api.app import create_app
from phema.shared.settings import Settings

async def serve():
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path, body in json.loads(sys.argv[1]):
            answer = await client.request(method, path, json=body)
            assert answer.status_code < 300, (path, answer.text)

asyncio.run(serve())
print([name for name in ("torch", "ray") if name in sys.modules])
"""


def _runs(catalog: Catalog) -> tuple[int, int]:
    """Numbers of runs and of train jobs."""
    with catalog.transaction() as tx:
        return len(tx.runs.list().items), len(tx.jobs.list(kind=JobKind.TRAIN).items)


def _wait_for_runs(catalog: Catalog, number: int) -> None:
    while _runs(catalog)[0] < number:
        time.sleep(0.01)


def test_a_kill_loses_nothing_and_repeats_nothing(settings: Settings, catalog: Catalog) -> None:
    """kill -9 with three requests in the three states there are; then all three are repeated."""
    answered, committed, waiting = ({**RUN, "name": name} for name in ("answered", "committed", "waiting"))
    with running(settings) as api:
        first = _post(api, answered)
        assert first.status_code == 201
        # The client knows nothing, the catalog everything.
        unread = _send(api, committed)
        _wait_for_runs(catalog, 2)
        with catalog.transaction() as tx:
            # Accepted, and waiting for its turn in the catalog.
            tx.idempotency.get("waiting")
            stuck = _send(api, waiting)
            # Answered by the same event loop, after the request before it was taken up.
            assert httpx.get(f"{api.url}/healthz").status_code == 200
            api.kill()
        unread.close()
        stuck.close()
    assert _runs(catalog) == (2, 2)
    with running(settings) as api:
        again = [_post(api, body) for body in (answered, committed, waiting)]
        assert [answer.status_code for answer in again] == [201, 201, 201]
        assert again[0].content == first.content
        assert ["idempotency-replayed" in answer.headers for answer in again] == [True, True, False]
        for answer in again:
            assert httpx.get(f"{api.url}/v1/runs/{answer.json()['name']}").json()["id"] == answer.json()["id"]
        other = httpx.post(f"{api.url}/v1/runs", json=RUN, headers={"Idempotency-Key": "answered"})
        assert other.status_code == 422
    assert _runs(catalog) == (3, 3)


def _post(api: ApiProcess, body: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{api.url}/v1/runs", json=body, headers={"Idempotency-Key": body["name"]}, timeout=60)


def _send(api: ApiProcess, body: dict[str, str]) -> http.client.HTTPConnection:
    """A request whose answer is not read."""
    url = httpx.URL(api.url)
    connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=60)
    headers = {"Idempotency-Key": body["name"], "Content-Type": "application/json"}
    connection.request("POST", "/v1/runs", json.dumps(body), headers)
    return connection


@pytest.mark.slow
@only("sqlite")
def test_killed_at_any_moment_of_many_requests(settings: Settings, catalog: Catalog) -> None:
    """Eight clients ask until they have their answers; the API dies three times under them."""
    names = [f"run{i}" for i in range(24)]
    urls: list[str] = []
    started = threading.Condition()

    def announce(url: str) -> None:
        with started:
            urls.append(url)
            started.notify_all()

    def insist(name: str) -> Any:
        tried = 0
        while True:
            with started:
                while len(urls) == tried:
                    started.wait()
                tried, url = len(urls), urls[-1]
            try:
                headers = {"Idempotency-Key": name}
                answer = httpx.post(f"{url}/v1/runs", json={**RUN, "name": name}, headers=headers, timeout=None)
            except httpx.TransportError:
                continue
            assert answer.status_code == 201, answer.text
            return answer.json()

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(insist, name) for name in names]
        for deaths in range(3):
            with running(settings) as api:
                announce(api.url)
                _wait_for_runs(catalog, 4 * (deaths + 1))
                api.kill()
        with running(settings) as api:
            announce(api.url)
            answers = [future.result() for future in asked]
    assert [answer["name"] for answer in answers] == names
    assert _runs(catalog) == (24, 24)
    with catalog.transaction() as tx:
        assert {tx.runs.get(answer["name"]).id for answer in answers} == {answer["id"] for answer in answers}


@only("sqlite")
def test_ctrl_c_ends_it_cleanly(settings: Settings) -> None:
    with running(settings) as api:
        assert httpx.get(f"{api.url}/readyz").status_code == 200
        code, out, err = api.stop(signal.SIGINT)
    assert (code, out) == (0, "")
    for line in err.splitlines():
        assert json.loads(line)["service"] == "api"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", httpx.URL(api.url).port or 0)) != 0


@only("sqlite")
def test_a_download_under_way_is_finished(settings: Settings, catalog: Catalog) -> None:
    size = 2**25
    run = seed.run(catalog)
    (identity,) = seed.snapshots(catalog, store_from(settings), run.id, [3200], [0.05], size)
    with catalog.transaction() as tx:
        sha256 = tx.snapshots.get(identity).sha256
    digest = hashlib.sha256()
    with running(settings) as api:
        with httpx.stream("GET", f"{api.url}/v1/snapshots/{identity}/download") as response:
            chunks = response.iter_bytes(2**16)
            digest.update(next(chunks))
            api.popen.send_signal(signal.SIGTERM)
            for chunk in chunks:
                digest.update(chunk)
        assert api.wait()[0] == 0
    assert digest.hexdigest() == sha256


@only("sqlite")
def test_a_broken_download_goes_on_where_it_stopped(settings: Settings, catalog: Catalog) -> None:
    """Over a real connection, through the death of the process."""
    size = 2**25
    run = seed.run(catalog)
    (identity,) = seed.snapshots(catalog, store_from(settings), run.id, [3200], [0.05], size)
    path = f"/v1/snapshots/{identity}/download"
    with running(settings) as api:
        got, etag = _receive_and_kill(api, path)
    assert 0 < len(got) < size
    with running(settings) as api:
        headers = {"Range": f"bytes={len(got)}-", "If-Range": etag}
        rest = httpx.get(f"{api.url}{path}", headers=headers)
        assert rest.status_code == 206
    assert hashlib.sha256(got + rest.content).hexdigest() == etag.strip('"')


def _receive_and_kill(api: ApiProcess, path: str) -> tuple[bytes, str]:
    """What arrived of a download before the API died in it, and its ETag."""
    got = b""
    with httpx.stream("GET", f"{api.url}{path}") as response:
        chunks = response.iter_raw()
        got += next(chunks)
        api.kill()
        try:
            for chunk in chunks:
                got += chunk
        except httpx.TransportError:
            return got, response.headers["etag"]
    raise AssertionError("the whole file arrived from a dead process")


@only("sqlite")
def test_an_abandoned_download_leaves_no_file_open(settings: Settings, catalog: Catalog) -> None:
    run = seed.run(catalog)
    more_than_the_kernel_buffers = 2**26
    (identity,) = seed.snapshots(
        catalog, store_from(settings), run.id, [3200], [0.05], num_bytes=more_than_the_kernel_buffers
    )
    with running(settings) as api:
        process = psutil.Process(api.popen.pid)
        with httpx.stream("GET", f"{api.url}/v1/snapshots/{identity}/download") as response:
            next(response.iter_raw())
            assert _open_weights(process)
        while _open_weights(process):
            time.sleep(0.01)
        assert httpx.get(f"{api.url}/healthz").status_code == 200


def _open_weights(process: psutil.Process) -> list[str]:
    return [file.path for file in process.open_files() if file.path.endswith(".safetensors")]


def test_connections_do_not_wait_for_acknowledgements() -> None:
    """With Nagle's algorithm every answer took 40 ms longer."""

    async def accept() -> int:
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        with listen("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener)
            async with server:
                _, ours = await asyncio.open_connection(*listener.getsockname())
                theirs = await accepted
                nodelay: int = theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                for writer in (ours, theirs):
                    writer.close()
                    await writer.wait_closed()
                return nodelay

    assert asyncio.run(accept()) != 0


@only("sqlite")
def test_neither_torch_nor_ray_is_imported_by_serving(settings: Settings, catalog: Catalog) -> None:
    store = LocalStore(Path(settings.store_url.removeprefix("file://")))
    run = seed.trained(catalog, store)
    row = seed.reconstruction(catalog, store, run.id)
    requests = [
        ("POST", "/v1/runs", {"name": "new", "preset": "digits-tiny"}),
        ("POST", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.09, "plan_only": True}),
        ("POST", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.09}),
        ("POST", "/v1/evaluations", {"reconstruction_id": row.id}),
        *[("GET", path, None) for path in LIGHT_PATHS],
        ("GET", f"/v1/reconstructions/{row.id}/download", None),
    ]
    command = [sys.executable, "-c", SERVE_IN_PROCESS, json.dumps(requests)]
    done = subprocess.run(command, env=environment(settings), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
