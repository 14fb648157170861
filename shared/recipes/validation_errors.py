"""Validation errors of a configuration: one sentence per wrong field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from phema.shared.recipes.run_config import RunConfig
from phema.shared.validation_sentences import requirement


class InvalidConfig(ValueError):
    """One or more fields are not valid. `problems` holds (field path, sentence) pairs.

    `rest` is the configuration without the wrong overrides, for further checks; None if it is not valid either.
    """

    def __init__(self, problems: list[tuple[str, str]], rest: RunConfig | None = None) -> None:
        self.problems, self.rest = problems, rest
        super().__init__("; ".join(f"{field} {sentence}" if field else sentence for field, sentence in problems))


def invalid(error: ValidationError) -> InvalidConfig:
    """Convert pydantic's errors of a RunConfig."""
    return InvalidConfig([(".".join(map(str, e["loc"])), _sentence(e)) for e in error.errors(include_url=False)])


def closest(name: str, allowed: Sequence[str]) -> str:
    """ "did you mean 'x'? ", or an empty text if no allowed name is similar."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _sentence(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        *path, name = error["loc"]
        allowed = _fields(path)
        return f"is not a field of the configuration; {closest(str(name), allowed)}allowed: {', '.join(allowed)}"
    given, required = error.get("input"), requirement(error)
    return required if isinstance(given, dict) else f"{required}, got {given!r}"


def _fields(path: Sequence[Any]) -> list[str]:
    """Names of the fields of RunConfig, or of the model at `path` in it, except `preset`."""
    model: Any = RunConfig
    for name in path:
        annotation = model.model_fields[name].annotation
        # An optional part of the configuration is a union with None.
        model = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    assert issubclass(model, BaseModel)
    return [name for name in model.model_fields if name != "preset"]
