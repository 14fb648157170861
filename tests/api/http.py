"""A synchronous client of an application in this process."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from fastapi.routing import APIRoute

from phema.services.api.http.problem_documents import MEDIA_TYPE, TYPE_PREFIX
from phema.shared.catalog import Catalog
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore

ANYWHERE = ("internal",)
"""Kinds of problem that any request can get; docs/api.md describes them once."""


class Api:
    """Requests to the application, and direct access to its catalog and store."""

    def __init__(self, app: FastAPI, portal: BlockingPortal, catalog: Catalog, store: ObjectStore) -> None:
        self.app, self.catalog, self.store = app, catalog, store
        self._portal = portal
        # An exception that escapes the application is a failure of the test, not an answer.
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=_token_header(app))

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Fails when the OpenAPI document does not list the answer's status, or its kind of problem."""
        response = self._portal.call(partial(self._client.request, method, path, **arguments))
        operation = self._operation(method, response.request.url.path)
        if operation is not None:
            assert_documented(response, operation)
        return response

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

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What the OpenAPI document says of the route that the request reaches; None for unknown paths."""
        method = "GET" if method == "HEAD" else method
        for route in self.app.routes:
            if isinstance(route, APIRoute) and method in route.methods and route.path_regex.match(path):
                operation: dict[str, Any] = _document(self.app)["paths"][route.path_format][method.lower()]
                return operation
        return None

    def close(self) -> None:
        self._portal.call(self._client.aclose)
        self.app.state.services.catalog.close()


_documents: list[dict[str, Any]] = []


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, which is the same for every application: made once per process."""
    if not _documents:
        _documents.append(app.openapi())
    return _documents[0]


def assert_documented(response: httpx.Response, operation: dict[str, Any]) -> None:
    """The answer's status, and its kind of problem, are in the OpenAPI document."""
    problem = response.headers.get("content-type") == MEDIA_TYPE
    kind = response.json()["type"].removeprefix(TYPE_PREFIX) if problem else None
    if kind in ANYWHERE:
        return
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{operation['operationId']} answers {response.status_code}: document it"
    if kind is not None:
        assert f"`{kind}`" in documented["description"], f"{operation['operationId']} answers {kind}: document it"


def _token_header(app: FastAPI) -> dict[str, str]:
    settings: Settings = app.state.services.settings
    token = settings.api_token
    return {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}


def problem(response: httpx.Response, status: int, kind: str) -> Any:
    """The problem document of an answer, after checks that hold for every problem document."""
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
