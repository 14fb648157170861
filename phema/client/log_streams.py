"""The log of an attempt as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import anyio.to_thread
import httpx

from phema.client.transport import Transport, check

FOLLOW_TIMEOUT = httpx.Timeout(30.0, connect=5.0, read=None)
"""A training that is followed may write nothing for hours."""


class LogStream:
    """The text of a log in pieces: `for text in log` or `async for text in log`. It can be read once.

    The connection is closed at the end of the log, and by `close`. Reading raises ServiceUnreachable when the service
    ends before the log does.
    """

    def __init__(self, transport: Transport, path: str, attempt: int | None, follow: bool) -> None:
        """Sends the request. Raises NotFound when the log does not exist, with a sentence that says why."""
        params = {"attempt": attempt, "follow": follow or None}
        given = {name: value for name, value in params.items() if value is not None}
        self._transport, self._open = transport, ExitStack()
        with transport.failures():
            timeout = FOLLOW_TIMEOUT if follow else transport.http.timeout
            request = transport.http.stream("GET", path, params=given, timeout=timeout)
            self._response = self._open.enter_context(request)
        try:
            check(self._response)
        except BaseException:
            self.close()
            raise
        self._pieces = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    async def __aiter__(self) -> AsyncIterator[str]:
        # The service may be silent for long, so the thread of a cancelled task is left behind until the next line.
        while (text := await anyio.to_thread.run_sync(next, self._pieces, None, abandon_on_cancel=True)) is not None:
            yield text

    def text(self) -> str:
        """All that is left of the log."""
        return "".join(self._pieces)

    def close(self) -> None:
        """Close the connection. Safe to repeat."""
        self._open.close()

    def _read(self) -> Iterator[str]:
        with self._open, self._transport.failures():
            yield from self._response.iter_text()
