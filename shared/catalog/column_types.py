"""Column types and identifiers shared by the models."""

from __future__ import annotations

import json
import math
import secrets
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, Enum, Integer
from sqlalchemy.types import TypeDecorator

# JSON and not JSONB on PostgreSQL: as text, floats and the order of keys are read back exactly as they were written.
Json = JSON(none_as_null=True)
Sequence = BigInteger().with_variant(Integer, "sqlite")
"""Insertion order. Pagination and the queue sort by it."""


def new_id(prefix: str, num_bytes: int = 8) -> str:
    """`prefix-` and 2 x `num_bytes` random hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(num_bytes)}"


def enum_column(kind: type[StrEnum], name: str) -> Enum:
    """A text column with a CHECK constraint on the values of `kind`. A native type would be harder to extend."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def open_enum_column(kind: type[StrEnum], name: str) -> Enum:
    """As `enum_column`, without the constraint: a later version of phema may add values."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


class Figures(TypeDecorator[dict[str, float]]):
    """JSON column of name -> float. NaN and infinity, which JSON lacks, are stored as strings."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[str, float] | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return {name: figure if math.isfinite(figure) else str(float(figure)) for name, figure in value.items()}

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, float] | None:
        return None if value is None else {name: float(figure) for name, figure in value.items()}


def dump_json(value: Any) -> str:
    """Serialiser of every JSON column. Raises ValueError for NaN and infinity; PostgreSQL's own error is less clear."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
