"""The OpenAPI document: what the framework derives, plus the token, the shared problems and the recorded examples."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from phema.services.api.http.auth import OPEN_PATHS
from phema.services.api.http.idempotency import KEY_HEADER
from phema.services.api.http.problem_documents import MEDIA_TYPE, described
from phema.services.api.http.problems import (
    BadRequest,
    Forbidden,
    Gone,
    Invalid,
    KeyReused,
    NotFound,
    Problem,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    WillBeDeleted,
)

DESCRIPTION = """Train diffusion models the EDM2 way and choose the EMA length after the training run.

Every error is a problem document (RFC 9457). Lists come in pages: for the next page, set `cursor` to `next_cursor`.
A POST that creates something accepts `Idempotency-Key`. Every answer carries `X-Request-ID`: that of the request, or a
new one.
"""

EXAMPLES = "examples.json"
"""Recorded from a real service by `python -m tests.api.record`, never written by hand."""
_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` return the complete document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def examples() -> dict[str, dict[str, Any]]:
    """Exchanges by operationId: `method`, `path`, `status`, and where present `request`, `response`, headers."""
    recorded: dict[str, dict[str, Any]] = json.loads((files("phema.services.api") / EXAMPLES).read_text())
    return recorded


def _complete(app: FastAPI) -> dict[str, Any]:
    # A copy, because parts of the framework's document are the routes' own objects.
    document = copy.deepcopy(
        get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            license_info=app.license_info,
            tags=app.openapi_tags,
            routes=app.routes,
        )
    )
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "Needed when the service has an `api_token`."}
    }
    recorded = examples()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path not in OPEN_PATHS:
                operation["security"] = [{"token": []}]
            operation["responses"] = _responses(path, method, operation)
            _add_examples(operation, recorded)
    for framework_only in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(framework_only, None)
    return document


def _responses(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """All responses of the operation, by status; every error is a problem document."""
    responses: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in json.dumps(responses.get("422", {})):
        del responses["422"]  # the framework's own shape, which the API never sends
    for response in responses.values():
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
    for problem in _implied_problems(path, method, operation):
        response = responses.setdefault(
            str(problem.status), {"description": "", "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
        )
        known = response["description"].split("; ") if response["description"] else []
        if described(problem) not in known and MEDIA_TYPE in response["content"]:
            response["description"] = "; ".join([*known, described(problem)])
    return dict(sorted(responses.items()))


def _implied_problems(path: str, method: str, operation: dict[str, Any]) -> list[type[Problem]]:
    """The problems that follow from the route alone. Every route refuses unknown query parameters."""
    implied: list[type[Problem]] = [Invalid, Forbidden]
    if method == "post":
        implied += [BadRequest, TooLarge, UnsupportedMediaType]
    if path not in OPEN_PATHS:
        implied += [Unauthorized, Unavailable]
    if "{" in path:
        implied.append(NotFound)
    if "{run" in path:
        implied.append(Gone)
    if any(parameter["name"] == KEY_HEADER for parameter in operation.get("parameters", ())):
        # What creates something may be work for a run.
        implied += [KeyReused, WillBeDeleted]
    return implied


def _add_examples(operation: dict[str, Any], recorded: dict[str, dict[str, Any]]) -> None:
    """Every recorded exchange of the operation: named `operationId`, or `operationId.variant`."""
    identity = operation["operationId"]
    for name, exchange in recorded.items():
        if name.partition(".")[0] != identity:
            continue
        variant = name.partition(".")[2] or "plain"
        if "request" in exchange:
            content = operation["requestBody"]["content"]["application/json"]
            content.setdefault("examples", {})[variant] = {"value": exchange["request"]}
        response = operation["responses"][str(exchange["status"])]
        if "response" in exchange:
            content = next(iter(response["content"].values()))
            content.setdefault("examples", {})[variant] = {"value": exchange["response"]}
        for header, value in exchange.get("response_headers", {}).items():
            if (description := _header(response, header)) is not None:
                description["example"] = value


def _header(response: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The description of a header; case does not matter."""
    headers: dict[str, dict[str, Any]] = response.get("headers", {})
    return next((header for known, header in headers.items() if known.lower() == name.lower()), None)
