"""An optional token for everything except the probes, the description of the API, and the page to sign in.

Programs send the token in a header. Browsers send the cookie of a session, which the page to sign in exchanges for the
token; requests of a session that change something also carry its CSRF token.
"""

from __future__ import annotations

import hmac
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from phema.services.api.http import docs_page
from phema.services.api.http.body_format import FORM_PATH as SIGN_IN
from phema.services.api.http.browser_pages import STATIC, is_page
from phema.services.api.http.cross_site import SAFE_METHODS
from phema.services.api.http.problem_documents import render
from phema.services.api.http.problems import Forbidden, Unauthorized
from phema.services.api.http.sessions import CSRF_HEADER, Session, Sessions

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", SIGN_IN}) | docs_page.PATHS
"""Paths that need no token: load balancers cannot send one, and the description is public."""


class Token:
    """The token of the settings. Without one, every request is accepted."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret.encode() if secret is not None else None
        self.sessions = Sessions(secret) if secret is not None else None

    def is_right(self, given: str) -> bool:
        """Whether this is the token. The comparison takes constant time."""
        return self._secret is None or hmac.compare_digest(given.strip().encode(), self._secret)

    def accepts(self, headers: Headers) -> bool:
        """Whether the request carries the token, or the cookie of a session."""
        return self.is_carried_by(headers) or self.session(headers) is not None

    def is_carried_by(self, headers: Headers) -> bool:
        """Whether the request carries the token itself, which browsers never add by themselves."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return self._secret is None or (scheme.lower() == "bearer" and self.is_right(given))

    def session(self, headers: Headers) -> Session | None:
        """The session of the browser that sent the request; None for programs and without a token."""
        return self.sessions.of(headers) if self.sessions is not None else None


class TokenMiddleware:
    """Checks the token before anything else of a request is read. ASGI middleware."""

    def __init__(self, app: ASGIApp, token: Token) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None if scope["type"] != "http" or _is_open(scope["path"]) else self._refused(scope)
        await (self._app if refused is None else refused)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._token.is_carried_by(headers):
            return None
        session = self._token.session(headers)
        if session is None:
            return _must_sign_in(scope)
        if scope["method"] in SAFE_METHODS or _is_equal(headers.get(CSRF_HEADER, ""), session.csrf_token):
            return None
        return render(
            Forbidden(f"the header {CSRF_HEADER} must carry the CSRF token of the session; reload the page"), scope
        )


def _is_equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(STATIC)


def _must_sign_in(scope: Scope) -> Response:
    """For a browser, a redirect to the page to sign in; for programs, 401."""
    if is_page(scope):
        wanted = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
        depth = scope["path"].count("/") - 1
        return RedirectResponse(f"{'../' * depth or './'}{SIGN_IN[1:]}?next={quote(wanted, safe='/')}", 303)
    problem = Unauthorized(
        "send the API's token in the header `Authorization: Bearer TOKEN`",
        headers={"WWW-Authenticate": 'Bearer realm="phema"'},
    )
    return render(problem, scope)
