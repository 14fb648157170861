"""Turns every error into JSON, in one place: RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from phema.services.api.http.browser_pages import is_page
from phema.services.api.http.problems import (
    BadRequest,
    Conflict,
    Damaged,
    FieldError,
    Gone,
    Internal,
    Invalid,
    MethodNotAllowed,
    NoSnapshots,
    NotFinished,
    NotFound,
    Place,
    Problem,
    SnapshotsGone,
    TooLarge,
    Unavailable,
    WillBeDeleted,
)
from phema.services.api.http.request_id import request_id_of
from phema.services.api.http.validation import validation_problem
from phema.shared.catalog import errors as catalog
from phema.shared.snapshots import errors as store
from phema.shared.submissions import errors as submissions

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TYPE_PREFIX = "urn:phema:problem:"


class FieldErrorDocument(BaseModel):
    place: Place = Field(description="Where the field is.")
    field: str = Field(description="Dotted path; empty when several fields do not fit together.")
    detail: str = Field(description="What was given and what is allowed.")


class ProblemDocument(BaseModel):
    """RFC 9457 problem details: the shape of every error."""

    type: str = Field(description=f"`{TYPE_PREFIX}` and the kind of problem; docs/api.md lists the kinds.")
    title: str = Field(description="The same for every problem of the type.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence: the field, what was given, what is allowed.")
    instance: str = Field(description="Path of the request.")
    request_id: str = Field(description="Id of the request, as in `X-Request-ID`; the log lines carry it too.")
    errors: list[FieldErrorDocument] = Field(default=[], description="Each wrong field; present with type `invalid`.")


def render(problem: Problem, scope: Scope) -> Response:
    """The problem as an HTTP response to the request that `scope` describes: JSON, or a page for a browser's page."""
    if is_page(scope):
        page: Response = scope["app"].state.problem_page(problem, scope)
        return page
    document = ProblemDocument(
        type=TYPE_PREFIX + problem.kind,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=scope["path"],
        request_id=request_id_of(scope),
        errors=[FieldErrorDocument(place=e.place, field=e.field, detail=e.detail) for e in problem.errors],
    )
    return Response(
        document.model_dump_json(exclude=None if problem.errors else {"errors"}),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Answer with a problem document for every exception that a request can raise."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(catalog.CatalogError, _answer_library)
    app.add_exception_handler(store.SnapshotError, _answer_library)
    app.add_exception_handler(submissions.SubmissionError, _answer_library)


def problem_from(error: Exception) -> Problem:
    """The problem for an exception of the catalog, the store or a submission; `Internal` for those not listed here."""
    sentence = str(error)
    if isinstance(error, submissions.SubmissionError):
        return _refused(error)
    if isinstance(error, catalog.RunDeleted):
        return Gone(sentence)
    if isinstance(error, catalog.RunToBeDeleted):
        return WillBeDeleted(sentence)
    if isinstance(error, catalog.NotFound):
        return NotFound(sentence)
    if isinstance(error, catalog.WrongState):
        return Conflict(sentence)
    if isinstance(error, catalog.BadCursor):
        return Invalid.of("cursor", sentence, place="query")
    if isinstance(error, (catalog.CatalogUnreachable, catalog.SchemaOutOfDate)):
        return Unavailable(sentence)
    if isinstance(error, (store.StoreUnreachable, store.StoreDenied, store.BucketMissing, store.StoreFull)):
        return Unavailable(sentence)
    if isinstance(error, (store.ObjectMissing, store.CorruptObject)):
        return Damaged(sentence)
    return Internal(sentence)


def _refused(error: submissions.SubmissionError) -> Problem:
    if isinstance(error, submissions.InvalidFields):
        return Invalid([FieldError("body", field, sentence) for field, sentence in error.problems])
    kinds: dict[type[submissions.SubmissionError], type[Problem]] = {
        submissions.NoSnapshots: NoSnapshots,
        submissions.NotFinished: NotFinished,
        submissions.SnapshotsGone: SnapshotsGone,
    }
    return kinds.get(type(error), Internal)(str(error))


def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return render(error, request.scope)


def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(validation_problem(error, request), request.scope)


def _answer_library(request: Request, error: Exception) -> Response:
    return render(problem_from(error), request.scope)


def _answer_http(request: Request, error: Exception) -> Response:
    """The framework's own errors: unknown paths and methods, and bodies that it cannot parse."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path, method = request.url.path, request.method
    problem: Problem
    if error.status_code == HTTPStatus.NOT_FOUND:
        problem = NotFound(
            f"there is nothing at {path}; docs/api.md and /openapi.json list every path", headers=headers
        )
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The framework's own Allow header covers only one of the path's routes.
        headers["Allow"] = allowed = ", ".join(sorted(_methods(request)))
        problem = MethodNotAllowed(f"{path} does not have the method {method}; allowed: {allowed}", headers=headers)
    elif error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        problem = TooLarge(str(error.detail), headers=headers)
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        problem = BadRequest("the body must be JSON in UTF-8", headers=headers)
    else:
        problem = Internal(f"{method} {path} was refused by the framework: {error.detail}", headers=headers)
    return render(problem, request.scope)


def _methods(request: Request) -> set[str]:
    """The methods that some route has at the request's path."""
    return {
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    }


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an endpoint: the problems of its own.

    `openapi` adds those that follow from the route: a missing token, an unreachable catalog, a wrong field, an unknown
    id in the path, a reused Idempotency-Key.
    """
    by_status: dict[int, list[type[Problem]]] = {}
    for problem in problems:
        by_status.setdefault(problem.status, []).append(problem)
    return {
        status: {
            "model": ProblemDocument,
            "description": "; ".join(map(described, kinds)),
            "content": {MEDIA_TYPE: {}},
        }
        for status, kinds in sorted(by_status.items())
    }


def described(problem: type[Problem]) -> str:
    """The kind of problem as the descriptions of responses name it."""
    return f"`{problem.kind}`: {problem.title}"
