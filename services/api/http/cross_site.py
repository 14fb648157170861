"""Refuses what a web page of another site could make a browser send to an API that has no token.

A page can send forms to the API (cross-site request forgery). With a DNS name of its own that it points at 127.0.0.1,
it could also read answers (DNS rebinding). With a token, both are harmless: a browser never adds a bearer token by
itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phema.services.api.http.problem_documents import render
from phema.services.api.http.problems import Forbidden

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing. A page of another site may send them, but cannot read the answer."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(:\d{1,5})?")


class CrossSiteMiddleware:
    """Accepts loopback hosts and `allowed_hosts` only, and unsafe methods from programs and the API's own pages only.

    ASGI middleware, for an API without a token. `allowed_hosts` are names without ports.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        answer = self._app if refused is None else render(Forbidden(refused), scope)
        await answer(scope, receive, send)

    def _refused(self, method: str, headers: Headers) -> str | None:
        """Why the request is refused; None if it is accepted."""
        host = headers.get("host", "")
        if not self._knows(host):
            return (
                f"the header Host is {host[:100]!r}; without an api_token, the API accepts localhost, loopback "
                "addresses, and the names in the setting api_allowed_hosts"
            )
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if method in SAFE_METHODS or site in ("same-origin", "none"):
            return None
        if site is not None or (origin is not None and origin.partition("://")[2].lower() != host.lower()):
            return (
                f"a page of {(origin or 'another site')[:100]} sent this {method}; without an api_token, only programs "
                "and the API's own pages may"
            )
        return None

    def _knows(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower().strip("[]").removesuffix(".")
        return name == "localhost" or name in self._allowed or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
