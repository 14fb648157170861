"""Declarative base of every table. Times (`*_at`) are seconds since the epoch, UTC, by the database's clock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Double, MetaData, String
from sqlalchemy.orm import DeclarativeBase

from phema.shared.catalog.column_types import Json


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: String(), int: BigInteger(), float: Double(), dict[str, Any]: Json}  # noqa: RUF012
