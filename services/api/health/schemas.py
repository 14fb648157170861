"""Probes as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phema.services.api.http.schema_base import ResponseModel


class Health(ResponseModel):
    status: Literal["ok"] = "ok"


class Check(ResponseModel):
    """The state of the catalog or of the store."""

    ok: bool
    detail: str | None = Field(default=None, description="What is wrong; only for callers with the token.")


class Readiness(ResponseModel):
    """Whether the API can do its work now."""

    status: Literal["ready", "not ready"]
    catalog: Check
    store: Check
