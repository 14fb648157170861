"""An optional bearer token for everything except the probes and the description of the API."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phema.services.api.http import docs_page
from phema.services.api.http.problem_documents import render
from phema.services.api.http.problems import Unauthorized

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"}) | docs_page.PATHS
"""Paths that need no token: load balancers cannot send one, and the description is public."""


class Token:
    """The token of the settings. Without one, every request is accepted."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret.encode() if secret is not None else None

    def accepts(self, headers: Headers) -> bool:
        """Whether the request carries the token. The comparison takes constant time."""
        if self._secret is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._secret)


class TokenMiddleware:
    """Checks the token before anything else of a request is read. ASGI middleware."""

    def __init__(self, app: ASGIApp, token: Token) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._token.accepts(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        problem = Unauthorized(
            "send the API's token in the header `Authorization: Bearer TOKEN`",
            headers={"WWW-Authenticate": 'Bearer realm="phema"'},
        )
        await render(problem, scope)(scope, receive, send)
