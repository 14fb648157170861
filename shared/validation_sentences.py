"""Plain sentences for validation errors: what pydantic finds, in the words of phema's users. Torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 60
"""Largest number of characters of a given value that a sentence shows."""

_REQUIREMENTS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dataclass_type": "must be an object of fields",
    "dict_type": "must be an object of fields",
    "extra_forbidden": "is not known here",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "frozen_set_type": "must be a list",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "json_invalid": "must be JSON: {error}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "mapping_type": "must be an object of fields",
    "missing": "is missing",
    "model_attributes_type": "must be an object of fields",
    "model_type": "must be an object of fields",
    "multiple_of": "must be a multiple of {multiple_of}",
    "none_required": "must be null",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be a text",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "tuple_type": "must be a list",
    "url_parsing": "must be a URL",
}


def requirement(error: Mapping[str, Any]) -> str:
    """What is allowed, for one entry of `ValidationError.errors()`: "must be a whole number".

    The message of a validator of phema's own is a sentence already and is returned unchanged.
    """
    message = str(error["msg"])
    if message.startswith(("Value error, ", "Assertion failed, ")):
        return message.partition(", ")[2]
    template = _REQUIREMENTS.get(str(error["type"]))
    if template is not None:
        try:
            return template.format(**error.get("ctx") or {})
        except (KeyError, IndexError):
            pass
    plain = re.sub(r"^\w+ should ", "must ", message)
    return plain if plain != message else f"is refused: {message[:1].lower()}{message[1:]}"


def sentence(error: Mapping[str, Any], *parents: Any) -> str:
    """One entry of `ValidationError.errors()`: field, what was given, what is allowed. `parents` precede its path."""
    field = ".".join(map(str, (*parents, *error["loc"])))
    required = requirement(error)
    if not field:
        return required
    if error["type"] in ("value_error", "assertion_error"):
        return f"{field}: {required}"
    given = error.get("input")
    if error["type"] in ("missing", "extra_forbidden") or isinstance(given, Mapping):
        return f"{field} {required}"
    return f"{field} {shown(given)} {required}"


def shown(value: Any) -> str:
    """The given value as JSON, at most LONGEST characters."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, TypeError):
        text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
