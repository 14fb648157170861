"""A synchronous client of an application in this process."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI

from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore


class Api:
    """The application behind HTTP semantics, and direct access to what it stands on."""

    def __init__(self, app: FastAPI, portal: BlockingPortal, catalog: Catalog, store: ObjectStore) -> None:
        self.app, self.catalog, self.store = app, catalog, store
        self._portal = portal
        # An exception that escapes the application is a failure of the test, not an answer.
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://api", headers=_token_header(app))

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self._portal.call(partial(self._client.request, method, path, **arguments))

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, body: Any = None, **arguments: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **arguments)

    def anonymous(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The same without a token."""
        return self.request(method, path, **{"headers": {"Authorization": ""}, **arguments})

    def all(self, path: str, **params: Any) -> list[Any]:
        """The items of every page."""
        found, cursor = [], None
        while True:
            page = self.get(path, params={**params, **({"cursor": cursor} if cursor else {})}).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def close(self) -> None:
        self._portal.call(self._client.aclose)
        self.app.state.services.catalog.close()


def _token_header(app: FastAPI) -> dict[str, str]:
    settings: Settings = app.state.services.settings
    token = settings.api_token
    return {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}


def problem(response: httpx.Response, status: int, kind: str) -> Any:
    """The problem document of an answer, after checking all that is the same in every one of them."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) - {"errors"} == {"type", "title", "status", "detail", "instance", "request_id"}
    assert document["status"] == status
    assert document["type"] == f"urn:phema:problem:{kind}"
    assert document["instance"] == response.request.url.path
    assert document["request_id"] == response.headers["x-request-id"]
    assert ("errors" in document) == (kind == "invalid")
    return document
