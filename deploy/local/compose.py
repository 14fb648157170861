"""Read docker-compose.yml as a compose command does: anchors merged, variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?])(?P<rest>[^}]*))?\})")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ComposeError(ValueError):
    """The file or its variables cannot be used; the message is one sentence."""


def read_services(path: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every service of the file by name, with `variables` filled in. Raises ComposeError."""
    services: dict[str, dict[str, Any]] = _filled(yaml.safe_load(path.read_text())["services"], variables)
    return services


def read_variables(path: Path) -> dict[str, str]:
    """The variables of an .env file. A value may use variables of earlier lines. Raises ComposeError."""
    variables: dict[str, str] = {}
    for line in map(str.strip, path.read_text().splitlines()):
        if line and not line.startswith("#"):
            name, value = line.split("=", 1)
            variables[name] = _interpolated(value, variables)
    return variables


def seconds(duration: str) -> float:
    """Seconds of a duration such as `1m30s`. Raises ComposeError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if not parts or "".join(map("".join, parts)) != duration:
        raise ComposeError(f"{duration!r} is no duration; write one such as 10s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    return _interpolated(value, variables) if isinstance(value, str) else value


def _interpolated(text: str, variables: Mapping[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found, how = variables.get(match["name"]), match["how"] or "-"
        if found or (found is not None and not how.startswith(":")):
            return found
        if how.endswith("?"):
            raise ComposeError(f"{match['name']} has no value: {match['rest']}")
        return match["rest"] or ""

    return _VARIABLE.sub(one, text)
