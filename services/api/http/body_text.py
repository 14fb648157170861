"""Which JSON a body may hold: UTF-8, whole characters, a bounded depth."""

from __future__ import annotations

import json
import re
from typing import Any

from phema.services.api.http.problems import BadRequest, Invalid

MAX_DEPTH = 65
"""Largest nesting of lists and objects in a body, so that every answer with a part of it can be serialised."""
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89A-Fa-f]")


def check_body(body: bytes) -> None:
    """Check the text of a body that was parsed as JSON. Raises BadRequest, Invalid.

    Python's JSON parser accepts half a surrogate pair, which neither a database nor an answer can hold.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the body must be JSON in UTF-8") from error
    if "\0" in text:  # UTF-16 or UTF-32
        raise BadRequest("the body must be JSON in UTF-8")
    may_be_deep = text.count("[") + text.count("{") > MAX_DEPTH
    if not may_be_deep and _SURROGATE_ESCAPE.search(text) is None:
        return
    value = json.loads(text)
    if _depth(value) > MAX_DEPTH:
        raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    if (field := _half_pair(value, "")) is not None:
        raise Invalid.of(field, f"{field or 'the body'} holds half a surrogate pair, which is no text; leave it out")


def _depth(value: Any) -> int:
    """Levels of nested lists and objects; stops counting at MAX_DEPTH + 1."""
    levels, level = 0, [value]
    while level and levels <= MAX_DEPTH:
        containers = [v for v in level if isinstance(v, dict | list)]
        levels += bool(containers)
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]
    return levels


def _half_pair(value: Any, path: str) -> str | None:
    """Dotted path of the first text that is not Unicode; for a key, the path of its object. None if there is none."""
    if isinstance(value, str):
        return None if _is_text(value) else path
    if isinstance(value, dict):
        if not all(map(_is_text, value)):
            return path
        parts = list(value.items())
    else:
        parts = list(enumerate(value)) if isinstance(value, list) else []
    inside = (_half_pair(part, f"{path}.{name}" if path else str(name)) for name, part in parts)
    return next((found for found in inside if found is not None), None)


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
