"""What tells a browser that opens a page from a program that calls the API."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

STATIC = "/static/"
"""Prefix of the scripts and styles of the pages."""


def is_page(scope: Scope) -> bool:
    """Whether the request is for a page, so that its errors must be pages too."""
    if scope["method"] not in ("GET", "HEAD") or scope["path"].startswith(("/v1/", STATIC)):
        return False
    return "text/html" in Headers(scope=scope).get("accept", "")
