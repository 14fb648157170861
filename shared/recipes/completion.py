"""From the fields of a preset or proposal and a user's overrides to a complete configuration; every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from phema.shared.recipes.configuration_letters import Fields, merge, switch_configuration
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.validation_errors import InvalidConfig, invalid


def complete(preset: str, fields: Fields, recipes: Mapping[str, Fields], overrides: Mapping[str, Any]) -> RunConfig:
    """`fields` with `overrides` (nested mappings) merged over them, validated, under the name of a preset.

    Overriding `network.config` also switches to that letter's hyperparameters. Raises InvalidConfig, which names every
    wrong field: fields that are wrong together with others are found by leaving out those that are wrong by themselves.
    """
    problems: list[tuple[str, str]] = []
    left, cause = overrides, None
    while True:
        base = switch_configuration(fields, recipes, _letter(left))
        try:
            config = RunConfig.model_validate({**merge(base, left), "preset": preset})
        except ValidationError as error:
            cause = cause or error
            problems += [problem for problem in invalid(error).problems if problem not in problems]
            reduced = left
            for entry in error.errors(include_url=False):
                reduced = _without(reduced, [str(part) for part in entry["loc"]])
            if reduced == left:
                raise InvalidConfig(problems) from cause
            left = reduced
            continue
        if problems:
            raise InvalidConfig(problems, rest=config) from cause
        return config


def _letter(overrides: Mapping[str, Any]) -> str:
    """The letter in `network.config`; "" if there is none or it is no text, which pydantic reports."""
    network = overrides.get("network")
    letter = network.get("config") if isinstance(network, Mapping) else None
    return letter if isinstance(letter, str) else ""


def _without(overrides: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The overrides without the field at `path`, or without the innermost one around it that was overridden."""
    if not path or path[0] not in overrides:
        return dict(overrides)
    value = overrides[path[0]]
    if isinstance(value, Mapping) and len(path) > 1 and path[1] in value:
        return {**overrides, path[0]: _without(value, path[1:])}
    return {name: value for name, value in overrides.items() if name != path[0]}
