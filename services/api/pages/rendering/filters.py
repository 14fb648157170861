"""Filters of tables in the address of their page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BeforeValidator

from phema.services.api.http.schema_base import NAME

T = TypeVar("T")


def _empty_is_none(given: object) -> object:
    """A form sends a field that nobody filled in as an empty text."""
    return None if given == "" else given


Optional = Annotated[T | None, BeforeValidator(_empty_is_none)]
"""A filter that is not set when its field is empty."""
RunFilter = Annotated[Optional[Annotated[str, Query(max_length=100, pattern=NAME)]], Query()]
"""Name or id of the run whose rows a table shows."""


def with_query(path: str, parameters: Mapping[str, object | None]) -> str:
    """The path with those parameters that are set."""
    query = urlencode({name: str(value) for name, value in parameters.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path
