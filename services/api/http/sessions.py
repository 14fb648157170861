"""Sessions of browsers: a signed cookie that stands for the API's token, and the CSRF token that belongs to it.

The cookie is signed with a key made from the API's token, so that every process with the same token accepts it, nothing
is stored, and a new token ends every session.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

SESSION_SECONDS = 7 * 24 * 3600
"""Time after which a browser must sign in again."""
CSRF_HEADER = "X-CSRF-Token"
"""Header of requests that change something, with the session's CSRF token."""
_FORM = re.compile(r"(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class Session:
    """A browser that has signed in. `cookie` is the value of its cookie."""

    cookie: str
    csrf_token: str


class Sessions:
    """Makes and checks sessions of an API with this token."""

    def __init__(self, token: str) -> None:
        self._key = hmac.digest(token.encode(), b"phema sessions", "sha256")
        # Cookies do not know ports: two APIs on one machine need two names.
        self.cookie_name = f"phema_session_{self._sign('name')[:8]}"

    def begin(self) -> Session:
        """A new session, which ends after SESSION_SECONDS."""
        content = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(16)}"
        return self._session(content, f"{content}.{self._sign(content)}")

    def of(self, headers: Headers) -> Session | None:
        """The session of a request; None without a valid cookie."""
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie_name)
        except CookieError:
            return None
        match = _FORM.fullmatch(morsel.value) if morsel is not None else None
        if match is None or int(match[1]) < time.time():
            return None
        content = f"{match[1]}.{match[2]}"
        if not hmac.compare_digest(match[3], self._sign(content)):
            return None
        return self._session(content, match[0])

    def _session(self, content: str, cookie: str) -> Session:
        return Session(cookie, self._sign(f"csrf {content}"))

    def _sign(self, content: str) -> str:
        return hmac.digest(self._key, content.encode(), hashlib.sha256).hex()


def is_secure(scope: Scope) -> bool:
    """Whether the browser reached the API, or the proxy in front of it, over TLS."""
    forwarded = Headers(scope=scope).get("x-forwarded-proto", "")
    return scope["scheme"] == "https" or forwarded.split(",")[0].strip().lower() == "https"
