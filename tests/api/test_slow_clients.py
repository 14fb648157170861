"""Clients that send slowly or not at all, and very many clients, on real sockets of the real service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from phema.shared.settings import Settings
from tests.api.process import running
from tests.fixtures.catalog import only

pytestmark = only("sqlite")

Connect = Callable[[str, bytes], socket.socket]
LIMITS = "from phema.services.api.http import bounded_protocol as p; {}"
HEAD = b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens a connection to a URL's address and sends the given bytes."""
    with ExitStack() as opened:

        def one(url: str, sent: bytes) -> socket.socket:
            client = opened.enter_context(socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)))
            client.sendall(sent)
            return client

        yield one


def test_a_request_that_does_not_arrive_in_time_ends(settings: Settings, connect: Connect) -> None:
    with running(settings, LIMITS.format("p.HEAD_SECONDS, p.BODY_SECONDS = 1, 1")) as api:
        silent, partial_body = connect(api.url, b""), connect(api.url, HEAD)
        partial_head = connect(api.url, b"GET /healthz HTTP/1.1\r\nHo")
        partial_body.sendall(b'\r\n{"name":')
        # A client that sends a byte now and then does not get more time.
        dripping = connect(api.url, b"GET /healthz HTTP/1.1\r\nX: ")
        answer = b""
        dripping.settimeout(0.1)
        while not answer:
            try:
                dripping.sendall(b"x")
                answer = dripping.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        for client in (silent, partial_head, partial_body):
            assert _everything(client).startswith(b"HTTP/1.1 408 ")

        # Between two requests, a connection may be silent for longer than a head may take.
        kept = connect(api.url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(10_000).startswith(b"HTTP/1.1 200 ")
        # Until a head's time has passed for `kept`, too.
        assert _everything(connect(api.url, b"")).startswith(b"HTTP/1.1 408 ")
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 " in _everything(kept)
        assert api.stop()[0] == 0


def test_a_connection_too_many_is_refused(settings: Settings, connect: Connect) -> None:
    with running(settings) as api:
        clients = [connect(api.url, b"") for _ in range(500)]
        # Accepted in order: when the last one has its answer, all are open.
        clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert clients[-1].recv(10_000).startswith(b"HTTP/1.1 200 ")
        assert _everything(connect(api.url, b"")).startswith(b"HTTP/1.1 503 ")
        for client in clients:
            client.close()
        with httpx.Client(transport=httpx.HTTPTransport(retries=0)) as client:
            while client.get(f"{api.url}/healthz").status_code == 503:  # until the service has seen them close
                pass


def _everything(client: socket.socket) -> bytes:
    """What the service sends until it closes the connection."""
    return b"".join(iter(lambda: client.recv(65536), b""))
