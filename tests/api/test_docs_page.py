"""The page /docs loads its files from the service alone, and says so to the browser."""

from __future__ import annotations

import re

from tests.api.http import Api
from tests.fixtures.catalog import only

pytestmark = only("sqlite")


def test_the_page_and_its_files_come_from_the_service(guarded: Api) -> None:
    page = guarded.anonymous("GET", "/docs")
    assert page.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"https?://|<script>| on\w+=", page.text), "neither other hosts nor scripts in the page"
    addresses = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(addresses) == 3
    files = {address: guarded.anonymous("GET", f"/{address}") for address in addresses}
    for answer in files.values():
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "SwaggerUIBundle" in files["docs/swagger-ui-bundle.js"].text
    assert files["docs/swagger-ui.css"].headers["content-type"].startswith("text/css")
    assert 'url: "openapi.json"' in files["docs/start.js"].text
    assert guarded.anonymous("GET", "/openapi.json").json()["openapi"].startswith("3.1")


def test_there_is_nothing_else_beside_the_page(guarded: Api) -> None:
    for path in ("/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/"):
        assert guarded.get(path).status_code == 404
        assert guarded.anonymous("GET", path).status_code == 401
