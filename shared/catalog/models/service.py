"""Tables of the service itself: answers to repeated requests, and processes with metrics."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, mapped_column

from phema.shared.catalog.clock import database_now
from phema.shared.catalog.models.base import Base


class IdempotencyRecord(Base):
    """The response to a request with an Idempotency-Key."""

    __tablename__ = "idempotency"

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[Any] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(default=database_now())


class ScrapeTarget(Base):
    """A process that serves Prometheus metrics at `address` (host:port)."""

    __tablename__ = "targets"

    address: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    labels: Mapped[dict[str, Any]]
    seen_at: Mapped[float] = mapped_column(default=database_now())
