"""Requests for another name."""

from __future__ import annotations

from pydantic import Field

from phema.services.api.http.schema_base import RequestModel
from phema.services.api.run_plans.schemas import RunName


class RunRename(RequestModel):
    """The new name of a run."""

    name: RunName = Field(description="Unique; letters, digits and `._-`.")
