"""Scripts and styles of the pages. Their addresses contain a hash of their content, so browsers keep them for good."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from phema.services.api.http.browser_pages import STATIC
from phema.services.api.http.problems import NotFound

_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


@cache
def _contents() -> dict[str, bytes]:
    folder = files("phema.services.api.pages") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}


@cache
def address(name: str) -> str:
    """Path of the file, such as `/static/1a2b3c4d/phema.js`. Raises KeyError."""
    # Scripts import each other by relative addresses, so all files have one hash.
    _contents()[name]
    return f"{STATIC}{_hash()}/{name}"


@cache
def _hash() -> str:
    content = b"".join(name.encode() + data for name, data in sorted(_contents().items()))
    return hashlib.sha256(content).hexdigest()[:12]


def serve(request: Request) -> Response:
    """Answers `/static/{hash}/{name}`. An old hash gets the file of now, which no browser keeps."""
    name = request.path_params["name"]
    if name not in _contents():
        raise NotFound(f"there is no file {name!r}; the pages name the files that they need")
    fresh = request.path_params["hash"] == _hash()
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if fresh else "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(_contents()[name], media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
