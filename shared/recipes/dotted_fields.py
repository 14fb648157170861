"""Nested fields of a configuration by their dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Value by dotted path, such as `network.dropout`, in the order of the configuration."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= dotted_fields(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
