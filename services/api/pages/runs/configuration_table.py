"""Configurations as tables of dotted fields, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.recipes.presets import PRESETS

LEFT_OUT = ("preset",)


@dataclass(frozen=True)
class Field:
    """One field, with its value in each configuration; None where a configuration lacks it."""

    name: str
    values: Sequence[str | None]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def table(configs: Sequence[Mapping[str, Any]]) -> list[Field]:
    """Every field of the configurations, those that differ first."""
    columns = [
        {name: _words(value) for name, value in dotted_fields(config).items() if name not in LEFT_OUT}
        for config in configs
    ]
    names = list(dict.fromkeys(name for column in columns for name in column))
    fields = [Field(name, [column.get(name) for column in columns]) for name in names]
    return sorted(fields, key=lambda field: not field.differs)


def preset_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the preset that a run began with; None if there is none, or not any more."""
    name = config.get("preset")
    return PRESETS[name].config.model_dump(mode="json") if name in PRESETS else None


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
