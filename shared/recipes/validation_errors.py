"""Validation errors of a configuration: one sentence per wrong field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from phema.shared.recipes.run_config import RunConfig


class InvalidConfig(ValueError):
    """One or more fields are not valid. `problems` holds (field path, sentence) pairs."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {sentence}" if field else sentence for field, sentence in problems))


def invalid(error: ValidationError) -> InvalidConfig:
    """Convert pydantic's errors of a RunConfig."""
    return InvalidConfig([(".".join(map(str, e["loc"])), _sentence(e)) for e in error.errors(include_url=False)])


def closest(name: str, allowed: Sequence[str]) -> str:
    """ "did you mean 'x'? ", or an empty text if no allowed name is similar."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        *path, name = error["loc"]
        allowed = _fields(path)
        return f"is not a field of the configuration; {closest(str(name), allowed)}allowed: {', '.join(allowed)}"
    given = error.get("input")
    return message if isinstance(given, dict) else f"{message}, got {given!r}"


def _fields(path: Sequence[Any]) -> list[str]:
    """Names of the fields of RunConfig, or of the model at `path` in it, except `preset`."""
    model: Any = RunConfig
    for name in path:
        model = model.model_fields[name].annotation
    assert issubclass(model, BaseModel)
    return [name for name in model.model_fields if name != "preset"]
