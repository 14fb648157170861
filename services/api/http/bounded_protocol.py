"""uvicorn's HTTP/1.1 with limits on slow and on very many clients, which uvicorn itself does not have."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Time for a connection's first request line and headers, and for those of each later request once they begin."""
BODY_SECONDS = 30.0
"""Time for a body, which has at most 1 MiB."""
MAX_CONNECTIONS = 500
"""Open connections. The usual limit of a process is 1,024 open files, which the catalog and the store need too."""

Part = Literal["head", "body"]


class BoundedProtocol(H11Protocol):
    """Answers 408 to a request that does not arrive in time, and 503 to a connection too many."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._awaited: Part | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._end("503 Service Unavailable")
        else:
            self._await("head")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await(self._unfinished_part())

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await(self._unfinished_part())

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def _unfinished_part(self) -> Part | None:
        """What the client must send now. Between two requests nothing: uvicorn's keep-alive timer runs then."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return "body"
        return "head" if state is h11.IDLE and self.timeout_keep_alive_task is None else None

    def _await(self, part: Part | None) -> None:
        """Start the time for `part`, unless it runs already: it counts from the beginning of the part."""
        if part == self._awaited:
            return
        self._awaited = part
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if part is not None:
            seconds = HEAD_SECONDS if part == "head" else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self._end, "408 Request Timeout")

    def _end(self, status: str) -> None:
        """Close the connection, with this status unless an answer has begun."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        self.transport.close()
