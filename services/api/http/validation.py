"""Turns pydantic's errors into sentences that name the field, what was given and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, cast, get_args

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from phema.services.api.http.body_text import check_body
from phema.services.api.http.problems import BadRequest, FieldError, Invalid, Place, Problem

_LONGEST = 60


def validation_problem(error: RequestValidationError, request: Request) -> Problem:
    """One problem that lists every wrong field of the request."""
    records = error.errors()
    for record in records:
        if record["type"] == "json_invalid":
            return BadRequest(f"the body is not JSON: {record['ctx']['error']} at character {record['loc'][-1]}")
        if record["loc"] == ("body",) and record["type"] in ("model_attributes_type", "dict_type"):
            return BadRequest("the body must be a JSON object")
    return Invalid([_field_error(record, request) for record in records])


async def refuse_unknown(request: Request) -> None:
    """Refuse query parameters and bodies that the route does not have, and bodies that are no text.

    A dependency of every route; it runs before the fields of the body are checked. Raises Invalid, BadRequest.
    """
    route = request.scope["route"]
    known = sorted(_query_names(route.dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise Invalid([FieldError("query", name, _unknown(name, known)) for name in unknown])
    if request.method != "POST":
        return
    body = await request.body()
    if route.body_field is None and body not in (b"", b"{}"):
        raise Invalid.of("", f"{request.url.path} takes no body; send none")
    check_body(body)


def shown(value: Any) -> str:
    """The given value as JSON, at most 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _field_error(record: Any, request: Request) -> FieldError:
    place, *path = record["loc"]
    field = ".".join(map(str, path))
    return FieldError(cast(Place, place), field, _sentence(record, field or place, len(path) > 1, request))


def _sentence(record: Any, field: str, nested: bool, request: Request) -> str:
    kind, message = record["type"], str(record["msg"])
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not known here" if nested else _unknown(field, _body_fields(request))
    if kind == "value_error":
        sentence = message.removeprefix("Value error, ")
        # A check across fields names the fields, but not their position in a list.
        if isinstance(record.get("input"), dict):
            return f"{field}: {sentence}" if nested else sentence
        return f"{field} {sentence}"
    return f"{field} {shown(record.get('input'))} {_requirement(message)}"


def _requirement(message: str) -> str:
    required = re.sub(r"^\w+ should ", "must ", message)
    return required if required != message else f"is refused: {message[:1].lower()}{message[1:]}"


def _unknown(name: str, known: Iterable[str]) -> str:
    allowed = list(known)
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{name} is not known here; {hint}allowed: {', '.join(allowed) or 'none'}"


def _body_fields(request: Request) -> list[str]:
    """Names of the top-level fields of the route's request model."""
    field = request.scope["route"].body_field
    annotation = field.field_info.annotation if field else None
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return list(candidate.model_fields)
    return []


def _query_names(dependant: Any) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    for dependency in dependant.dependencies:
        names |= _query_names(dependency)
    return names
