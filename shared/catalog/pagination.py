"""Cursor pagination: a page continues after the last row of the page before, whatever was inserted since."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from phema.shared.catalog.errors import BadCursor

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows, and the cursor of the next page (None: there are no more rows now)."""

    items: list[T]
    next_cursor: str | None


def encode_cursor(*position: int | float | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> list[Any]:
    """The position that `encode_cursor` encoded. Raises `BadCursor` unless its parts have these types."""
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        raise BadCursor(cursor) from None
    if (
        not isinstance(position, list)
        or [type(part) for part in position] != list(kinds)
        or not all(map(_storable, position))
    ):
        raise BadCursor(cursor)
    return position


def _storable(part: Any) -> bool:
    """Whether a database accepts the value: integers of 64 bits, strings of whole characters without NUL."""
    if isinstance(part, int):
        return -(2**63) <= part < 2**63
    return not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in str(part))


def cut(rows: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """A page of `limit` rows from `limit + 1` fetched rows. The extra row only shows that there are more."""
    items = list(rows[:limit])
    return Page(items, cursor(items[-1]) if len(rows) > limit else None)
