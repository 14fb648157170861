"""The page to sign in: exchanges the API's token for the cookie of a session."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from phema.services.api.http.body_format import FORM_PATH
from phema.services.api.http.cross_site import SAFE_METHODS
from phema.services.api.http.problems import Forbidden
from phema.services.api.http.sessions import SESSION_SECONDS, is_secure
from phema.services.api.pages.rendering.page import Pages

_LONGEST = 4096
"""Bytes of the form."""


class SignIn:
    """Answers `/sign-in`. Without a token there is nothing to sign in to, and it leads on."""

    def __init__(self, pages: Pages) -> None:
        self._pages, self._token = pages, pages.services.token

    async def __call__(self, request: Request) -> Response:
        if self._token.sessions is None or (
            request.method in SAFE_METHODS and self._token.session(request.headers) is not None
        ):
            return RedirectResponse(_next(request.query_params.get("next")), 303)
        if request.method in SAFE_METHODS:
            return self._form(request, request.query_params.get("next", ""), wrong=False)
        self._refuse_other_sites(request)
        fields = parse_qs((await request.body())[:_LONGEST].decode("utf-8", "replace"))
        (given,), (wanted,) = fields.get("token", [""]), fields.get("next", [""])
        if not self._token.is_right(given):
            return self._form(request, wanted, wrong=True)
        response = RedirectResponse(_next(wanted), 303)
        response.set_cookie(
            self._token.sessions.cookie_name,
            self._token.sessions.begin().cookie,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=is_secure(request.scope),
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """Answers `POST /sign-out`: forget the cookie. The middleware has checked the CSRF token."""
        response = Response(status_code=204)
        if self._token.sessions is not None:
            response.delete_cookie(self._token.sessions.cookie_name, httponly=True, samesite="strict")
        return response

    def _form(self, request: Request, wanted: str, *, wrong: bool) -> Response:
        return self._pages.render(request, "sign_in.html", status=401 if wrong else 200, wanted=wanted, wrong=wrong)

    def _refuse_other_sites(self, request: Request) -> None:
        """Another site could otherwise sign its visitors in with a token of its own choice. Raises Forbidden."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        same = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
        if site not in (None, "same-origin", "none") or (site is None and not same):
            raise Forbidden(f"only the page {FORM_PATH} of this service may send its form")


def _next(wanted: str | None) -> str:
    """The address to go to, relative to `/sign-in`; addresses of other hosts are ignored."""
    if not wanted or not wanted.startswith("/") or wanted.startswith(("//", "/\\")):
        return "./"
    return f"./{wanted[1:]}"
