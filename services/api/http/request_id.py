"""Every request has an id, with which it is followed through answers, logs and jobs."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phema.shared.telemetry import log_fields

HEADER = "X-Request-ID"
_USABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_KEY = "phema.request_id"


def request_id_of(scope: Scope) -> str:
    """The id of the request that `scope` describes."""
    request_id: str = scope[_KEY]
    return request_id


class RequestIdMiddleware:
    """ASGI middleware around everything else: takes the caller's id or makes one, and gives it back in a header.

    An id that cannot be used (too long, or with characters that logs and shells do not take well) is replaced, not
    refused: proxies add the header too, and the answer says which id holds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _USABLE.fullmatch(given) else f"req-{secrets.token_hex(8)}"
        scope[_KEY] = request_id

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with log_fields(request_id=request_id):
            await self._app(scope, receive, identified)
