"""The HTTP server: opens the socket, prints one line when it is ready, and ends cleanly on a signal."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from phema.services.api.http.bounded_protocol import BoundedProtocol
from phema.shared.settings import Settings

GRACE_SECONDS = 10
"""Seconds for running requests to finish after a signal. Clients resume downloads that take longer."""


class AddressTaken(OSError):
    """The configured address cannot be listened on; the message is one sentence."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, url: str, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._url, self._end_streams = url, end_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"phema api listening on {self._url}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams of events do not end by themselves, and the server waits for every answer.
        self._end_streams()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's own, except that a handled signal is not raised again: the process exits with code 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(app: FastAPI, settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish running requests and return. Raises AddressTaken."""
    with listen(settings.api_host, settings.api_port) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=30,
        )
        _Server(config, f"http://{host}:{port}", app.state.services.events.close).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free port. Raises AddressTaken."""
    # asyncio turns off Nagle's algorithm only for sockets that name the protocol; with it, a request takes 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise AddressTaken(
            f"api_host {host}, api_port {port}: {error.strerror or error}; choose another port, or 0 for a free one"
        ) from error
    return listener
