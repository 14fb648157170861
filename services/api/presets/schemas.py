"""Presets as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from services.api.schema import Answer


class Preset(Answer):
    """A recipe by name."""

    name: str
    config: dict[str, Any] = Field(description="The complete configuration a run of this preset has without overrides.")
