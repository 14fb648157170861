"""Renders pages: templates, security headers, addresses, and problems as pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from phema.services.api.http.dependencies import Services
from phema.services.api.http.problems import Problem
from phema.services.api.http.request_id import request_id_of
from phema.services.api.pages.rendering import formatting
from phema.services.api.pages.rendering.equivalents import Equivalent, Method, equivalent
from phema.services.api.pages.rendering.static_files import address
from phema.shared.settings import Settings

NAVIGATION = (
    ("runs", "Runs"),
    ("evaluations", "Evaluations"),
    ("studies", "Sweeps and searches"),
    ("models", "Models"),
    ("jobs", "Jobs"),
    ("system", "System"),
)
"""First part of the address, and title, of each page in the bar at the top."""


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("phema.services.api.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= formatting.FILTERS
    environment.filters["script_json"] = _script_json
    return environment


def _script_json(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`, in which no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@dataclass(frozen=True)
class Pages:
    """Renders the pages of one application."""

    services: Services

    def render(
        self,
        request: Request,
        template: str,
        *,
        same_by: Sequence[Equivalent] = (),
        status: int = 200,
        **context: Any,
    ) -> HTMLResponse:
        """The template as a response.

        `same_by`: what the page shows, by curl, in Python and by the command. Templates have `url("runs/digits")` for
        addresses, `asset("phema.js")` for files of `static`, and the filters of `formatting`.
        """
        return self._response(request.scope, template, status, same_by=same_by, **context)

    def equivalent(
        self,
        request: Request,
        title: str,
        path: str,
        python: str,
        command: Sequence[str] | None,
        body: dict[str, Any] | None = None,
        *,
        method: Method | None = None,
    ) -> Equivalent:
        """See `equivalents.equivalent`; with the address at which the browser reached the API."""
        origin = f"{request.url.scheme}://{Headers(scope=request.scope).get('host', 'localhost')}"
        token = self.services.token.sessions is not None
        return equivalent(title, path, python, command, body=body, method=method, token=token, origin=origin)

    def problem(self, problem: Problem, scope: Scope) -> Response:
        """The problem as a page."""
        return self._response(
            scope,
            "problem.html",
            problem.status,
            extra=dict(problem.headers or {}),
            problem=problem,
            request_id=request_id_of(scope),
        )

    def _response(
        self, scope: Scope, template: str, status: int, extra: dict[str, str] | None = None, **context: Any
    ) -> HTMLResponse:
        headers = Headers(scope=scope)
        session = self.services.token.session(headers)
        root = _root(scope["path"])
        known = {
            "root": root,
            "url": partial(_url, root),
            "asset": lambda name: _url(root, address(name)),
            "section": scope["path"].split("/")[1],
            "navigation": NAVIGATION,
            "csrf_token": session.csrf_token if session is not None else "",
            "signed_in": session is not None,
            "same_by": (),
        }
        text = _templates().get_template(template).render(known | context)
        return HTMLResponse(text, status, {**_headers(self.services.settings), **(extra or {})})


def _root(path: str) -> str:
    """The relative address of `/` from a page, so that the pages also work below a path of a proxy."""
    return "../" * (path.count("/") - 1) or "./"


def _url(root: str, path: str) -> str:
    """The relative address of a path of the API, with or without its leading slash."""
    return root + path.lstrip("/")


def _headers(settings: Settings) -> dict[str, str]:
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"img-src 'self' data: blob:{_picture_hosts(settings)}; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        # A page shows the state of now. `no-cache` still allows the browser's way back.
        "Cache-Control": "no-cache, private",
    }


def _picture_hosts(settings: Settings) -> str:
    """The object store from which pictures come: with S3, the API redirects to it."""
    if not settings.object_store_url.startswith("s3://"):
        return ""
    endpoint = settings.s3_public_endpoint_url or settings.s3_endpoint_url
    if endpoint is None:
        return " https://*.amazonaws.com"
    parts = urlsplit(endpoint)
    return f" {parts.scheme}://{parts.netloc}"
