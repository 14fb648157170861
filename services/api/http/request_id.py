"""Every request has an id, which its answer, its log lines and its jobs carry."""

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
    """Takes the caller's id or makes one, and returns it in a header. The outermost ASGI middleware.

    An id that is too long, or has characters that are unsafe in logs and shells, is replaced. It is not an error,
    because proxies add the header too; the answer's header has the id in use.
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
