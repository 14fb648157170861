"""Whatever a service or the user does, the client raises a PhemaError with one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from phema import errors
from phema.client.client import Client

RUN = b'{"id": "run-1", "name": "a", "state": 3}'
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "no JSON": (200, {}, b"<html>a router's page</html>"),
    "another shape": (200, {"Content-Type": "application/json"}, RUN),
    "a number": (200, {"Content-Type": "application/json"}, b"3"),
    "no text": (200, {"Content-Type": "application/json; charset=utf-8"}, b"\xff\xfe\xff"),
    "damaged compression": (200, {"Content-Encoding": "gzip"}, b"this is not gzip"),
    "cut off": (200, {"Content-Length": "1000"}, b'{"id": "run-1"'),
    "a redirect to nowhere": (307, {"Location": "http://[::1:::/"}, b""),
    "an error without a document": (418, {}, b"short and stout"),
    "a failure": (500, {"X-Request-ID": "req-7"}, b'{"detail": "the disk is gone"}'),
}


class _Odd(BaseHTTPRequestHandler):
    answer: ClassVar[tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)
        self.close_connection = True

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def odd_service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Odd) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


CALLS: list[Callable[[Client], object]] = [
    lambda c: c.runs.get("a"),
    lambda c: c.runs.list(),
    lambda c: c.presets(),
    lambda c: c.plan("a", 0.1),
    lambda c: c.reconstruct("a", 0.1),
    lambda c: c.compact("a"),
    lambda c: c.pin("a", 64),
    lambda c: c.evaluate("rec-1"),
    lambda c: c.sweep("a", 0.1),
    lambda c: c.analyses.get("ema-length", "a"),
    lambda c: c.download("rec-1"),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_odd_service_is_a_phema_error(odd_service: str, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(_Odd, "answer", ANSWERS[answer], raising=False)
    monkeypatch.setattr("phema.client.downloads.PAUSE_SECONDS", 0.0)
    with Client(odd_service) as client:
        for call in CALLS:
            with pytest.raises(errors.PhemaError) as caught:
                call(client)
            assert "\n" not in str(caught.value)
            assert "validation error" not in str(caught.value)
            assert "Input should" not in str(caught.value)


def test_what_a_service_of_another_version_answers_is_named(odd_service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Odd, "answer", ANSWERS["another shape"], raising=False)
    with Client(odd_service) as client, pytest.raises(errors.ServiceError) as caught:
        client.runs.get("a")
    assert str(caught.value) == (
        "the service's answer is no Run that this version of phema knows: state 3 must be a text"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Client("http://[::1:::"), "the service's address 'http://[::1:::' is not valid: "),
        (lambda: Client("http://127.0.0.1:99999").runs.list(), "127.0.0.1:99999"),
        (lambda: Client("http://127.0.0.1:9", "tökén"), "the token has a character that is not ASCII"),
        (lambda: Client("http://127.0.0.1:9").runs.create("a", config={"seed": float("nan")}), "cannot be written as"),
        (lambda: Client("http://127.0.0.1:9").runs.create("a", config={"seed": object()}), "cannot be written as JSON"),
        (lambda: Client("http://127.0.0.1:9").runs.create("a", config={"preset": 3}), "preset 3 of the configuration"),
    ],
)
def test_a_mistake_is_a_phema_error(call: Callable[[], object], words: str) -> None:
    with pytest.raises(errors.PhemaError) as caught:
        call()
    assert words in str(caught.value)


def test_a_closed_client_says_so() -> None:
    client = Client("http://127.0.0.1:9")
    client.close()
    with pytest.raises(errors.InvalidArgument, match=r"the client is closed; create another phema\.Client"):
        client.runs.list()
