"""Refuses bodies that are not declared as JSON, or whose length is announced in two ways."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phema.services.api.http.problem_documents import render
from phema.services.api.http.problems import BadRequest, Problem, UnsupportedMediaType

FORM_PATH = "/sign-in"
"""The only path that takes an HTML form. It checks by itself that its own page sent the form."""
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyFormatMiddleware:
    """Answers 415 to a body that is not declared as JSON, and 400 to two contradictory lengths. ASGI middleware.

    HTML forms cannot send `application/json`, so a web page of another site cannot post to the API with a form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        checked = scope["type"] == "http" and scope["path"] != FORM_PATH
        problem = _problem(scope["method"], Headers(scope=scope)) if checked else None
        answer = self._app if problem is None else render(problem, scope)
        await answer(scope, receive, send)


def _problem(method: str, headers: Headers) -> Problem | None:
    if "content-length" in headers and "transfer-encoding" in headers:
        # A proxy in front may have used the other header, and then takes the rest of the body for another request.
        return BadRequest(
            "the headers Content-Length and Transfer-Encoding are both there; send one of them",
            headers={"Connection": "close"},
        )
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    given = headers.get("content-type")
    if method in _METHODS_WITHOUT_BODY or (given is None and not has_body) or _is_json(given or ""):
        return None
    return UnsupportedMediaType(
        f"the header Content-Type is {given[:100]!r}; it must be application/json"
        if given is not None
        else "the header Content-Type is missing; it must be application/json"
    )


def _is_json(content_type: str) -> bool:
    media_type, _, parameters = content_type.lower().partition(";")
    return media_type.strip() == "application/json" and parameters.replace(" ", "").strip('"') in (
        "",
        "charset=utf-8",
        'charset="utf-8',
    )
