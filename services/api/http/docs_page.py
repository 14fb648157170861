"""The page /docs: Swagger UI from files of the package `fastapi-offline`, under a Content-Security-Policy.

The browser loads nothing from other hosts: a foreign script on this page could send every request of the API.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

PATH = "/docs"
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SCRIPT = "start.js"
PATHS = frozenset({PATH, *(f"{PATH}/{name}" for name in (*ASSETS, SCRIPT))})
_PACKAGE = "fastapi_offline"
_HEADERS = {
    # Swagger UI sets styles in the markup that it makes.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# All addresses are relative, so that the page also works below a path of a proxy.
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>phema</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/{SCRIPT}"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""


def install(app: FastAPI) -> None:
    """Serve the page and its files. They need no token: they only describe the API."""
    app.add_route(PATH, _page)
    app.add_route(f"{PATH}/{SCRIPT}", _start)
    for name in ASSETS:
        app.add_route(f"{PATH}/{name}", _asset)


def _page(request: Request) -> Response:
    return HTMLResponse(_PAGE, headers=_HEADERS)


def _start(request: Request) -> Response:
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


def _asset(request: Request) -> Response:
    name = request.url.path.rpartition("/")[2]
    return FileResponse(_folder() / name, media_type=ASSETS[name], headers=_HEADERS)


def _folder() -> Path:
    """Where the package keeps its files. The package itself is not imported."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the page /docs needs the package fastapi-offline", name=_PACKAGE)
    return Path(found.origin).parent / "static"
