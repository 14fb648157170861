"""Configurations of runs in Python: typed, complete, and checked before a request is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from phema.client.response_models import Run
from phema.errors import InvalidArgument
from phema.shared.recipes.dotted_fields import dotted_fields

if TYPE_CHECKING:
    # Most users of the client create no typed configuration, and start faster without its modules.
    from phema.shared.recipes.run_config import RunConfig

DEFAULT_PRESET = "digits-tiny"


def preset(name: str, **fields: Any) -> RunConfig:
    """The complete configuration of a preset, with some fields replaced, for `client.runs.create`.

    `fields` are those of `phema.RunConfig`; nested ones are mappings or models: `network={"dropout": 0.1}`. An unknown
    field, a value that is not allowed and an unknown preset raise InvalidArgument with one sentence for each.
    """
    from phema.shared.recipes.presets import InvalidConfig, UnknownPreset, resolve

    if "preset" in fields:
        raise InvalidArgument("preset is given twice; name the preset only in the first argument")
    try:
        return resolve(name, plain_fields(fields))
    except (InvalidConfig, UnknownPreset) as error:
        raise InvalidArgument(str(error)) from error


def plain_fields(config: Mapping[str, Any] | RunConfig | None) -> dict[str, Any]:
    """The fields as JSON has them: nested models become mappings."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        return config.model_dump(mode="json")
    return {name: _plain(value) for name, value in config.items()}


def own_preset(preset: str | None, config: Mapping[str, Any] | RunConfig | None) -> tuple[str | None, dict[str, Any]]:
    """Preset and fields of a request for a run; None if neither argument names a preset.

    A `phema.RunConfig` and the fields of a run file name their preset themselves. Raises InvalidArgument if `preset`
    names another one.
    """
    fields = plain_fields(config)
    own = fields.pop("preset", None)
    if own is not None and not isinstance(own, str):
        raise InvalidArgument(f"preset {own!r} of the configuration must be the name of a preset")
    if own is not None and preset is not None and own != preset:
        raise InvalidArgument(f"preset {preset!r} and the preset {own!r} of the configuration differ; give one of them")
    return preset or own, fields


def differences(run: Run) -> dict[str, tuple[Any, Any]] | None:
    """Fields of a run's configuration that differ from its preset: value and the preset's value by dotted path.

    None if the run has no preset, or one that this version of phema does not know. None stands for a missing field.
    """
    from phema.shared.recipes.presets import PRESETS

    if run.preset not in PRESETS:
        return None
    usual, own = dotted_fields(PRESETS[run.preset].config.model_dump(mode="json")), dotted_fields(run.config)
    return {
        path: (own.get(path), usual.get(path))
        for path in dict.fromkeys((*own, *usual))
        if own.get(path) != usual.get(path)
    }


def without_nulls_of_preset(document: Mapping[str, Any]) -> dict[str, Any]:
    """A complete configuration without those null fields that are null in its preset, for formats without null."""
    from phema.shared.recipes.presets import resolve

    return _without_nulls(document, resolve(document["preset"]).model_dump(mode="json"))


def _without_nulls(document: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            kept[name] = _without_nulls(value, base.get(name) or {})
        elif value is not None or base.get(name) is not None:
            kept[name] = value
    return kept


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
