"""The OpenAPI document: what the framework derives, plus the token and the recorded examples."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from phema.services.api.http.auth import OPEN_PATHS
from phema.services.api.http.errors import Invalid, Problem, Unauthorized, Unavailable
from phema.services.api.http.problem_documents import MEDIA_TYPE, documented

DESCRIPTION = """Train diffusion models the EDM2 way and choose the EMA length after the training run.

Every error is a problem document (RFC 9457). Lists are cut into pages: ask again with `cursor` set to `next_cursor`.
A POST that creates something honours `Idempotency-Key`. Every answer carries `X-Request-ID`: that of the request, or a
new one.
"""

TAGS = [
    {"name": "runs", "description": "Training runs; their clock is `num_images`, images seen."},
    {"name": "snapshots", "description": "Weights of tracked EMAs, stored while a run trains."},
    {"name": "reconstructions", "description": "Any EMA length, from the snapshots, after training."},
    {"name": "storage", "description": "Bases, pins and retention: what a run keeps and what that costs."},
    {"name": "evaluations", "description": "Figures and pictures of reconstructed weights."},
    {"name": "jobs", "description": "The durable queue behind all of them."},
    {"name": "operations", "description": "Probes, metrics, service discovery."},
]
_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
EXAMPLES = "examples.json"
"""Recorded from a real service by `python -m tests.api.record`, never written by hand."""


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give the complete document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def examples() -> dict[str, dict[str, Any]]:
    """Exchanges by operationId: `method`, `path`, `status`, and, where there are, `request`, `response`, headers."""
    recorded: dict[str, dict[str, Any]] = json.loads((files("phema.services.api") / EXAMPLES).read_text())
    return recorded


def _complete(app: FastAPI) -> dict[str, Any]:
    # A copy of its own: parts of what the framework gives are the routes' own objects.
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
        "token": {"type": "http", "scheme": "bearer", "description": "Needed when the service was given `api_token`."}
    }
    recorded = examples()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path not in OPEN_PATHS:
                operation["security"] = [{"token": []}]
                _add_problems(operation["responses"], Unauthorized, Unavailable)
            _use_one_error_shape(operation["responses"])
            _add_problems(operation["responses"], Invalid)
            _add_examples(operation, recorded)
    for framework_only in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(framework_only, None)
    return document


def _add_problems(responses: dict[str, Any], *problems: type[Problem]) -> None:
    """What any operation may answer: a missing token, an absent database, an unknown query parameter."""
    for status, response in documented(*problems).items():
        responses.setdefault(
            str(status), {"description": response["description"], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
        )


def _use_one_error_shape(responses: dict[str, Any]) -> None:
    """Errors are problem documents, not the framework's own kind and not plain JSON."""
    for status, response in responses.items():
        content = response.get("content", {})
        if status == "422" and "HTTPValidationError" in json.dumps(content):
            content = {"application/json": {"schema": _PROBLEM}}
        if MEDIA_TYPE in content or status == "422":
            plain = content.pop("application/json", {})
            response["content"] = {MEDIA_TYPE: content.get(MEDIA_TYPE) or plain}


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
            if (described := _header(response, header)) is not None:
                described["example"] = value


def _header(response: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Names of headers have no case."""
    headers: dict[str, dict[str, Any]] = response.get("headers", {})
    return next((header for known, header in headers.items() if known.lower() == name.lower()), None)
