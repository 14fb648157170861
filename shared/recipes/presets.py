"""The recipes by name, and how a user's overrides become one complete configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from shared.edm2.config import NetworkConfig
from shared.recipes.config import RunConfig

MEBI = 2**20

# name: (channels, alpha_ref, dropout, duration in Mi images); Table 6, XXS from the autoguidance paper's guides.
_IMG512 = {
    "xxs": (64, 0.0170, 0.0, 2048),
    "xs": (128, 0.0120, 0.0, 2048),
    "s": (192, 0.0100, 0.0, 2048),
    "m": (256, 0.0090, 0.1, 2048),
    "l": (320, 0.0080, 0.1, 1792),
    "xl": (384, 0.0070, 0.1, 1280),
    "xxl": (448, 0.0065, 0.1, 896),
}
_IMG64 = {
    "xs": (128, 0.0120, 0.0, 1024),
    "s": (192, 0.0100, 0.0, 1024),
    "m": (256, 0.0090, 0.1, 2048),
    "l": (320, 0.0080, 0.1, 1024),
    "xl": (384, 0.0070, 0.1, 640),
}


class UnknownPreset(ValueError):
    """The name is none of `PRESETS`."""


class InvalidConfig(ValueError):
    """One or more fields are wrong. `problems` holds (field path, sentence) pairs."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {sentence}" if field else sentence for field, sentence in problems))


def _imagenet(resolution: int, channels: int, row: tuple[int, float, float, int], **fields: Any) -> dict[str, Any]:
    width, alpha_ref, dropout, duration = row
    return {
        "network": {
            "img_resolution": resolution,
            "img_channels": channels,
            "label_dim": 1000,
            "model_channels": width,
            "dropout": dropout,
        },
        "total_images": duration * MEBI,
        "learning_rate": alpha_ref,
        **fields,
    }


def _digits_tiny() -> dict[str, Any]:
    """181,115 parameters; about two minutes on two CPU cores to recognisable digits (1,200 steps of 64)."""
    return {
        "network": {
            "img_resolution": 8,
            "img_channels": 1,
            "label_dim": 10,
            "model_channels": 16,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "channels_per_head": 16,
        },
        "total_images": 76_800,
        "batch_size": 64,
        "learning_rate": 1e-2,
        "lr_decay_iterations": 300,
        "lr_rampup_images": 3_200,
        "snapshot_every": 3_200,
        "snapshot_dtype": "float32",
        "checkpoint_every": 12_800,
        "status_every": 1_280,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "digits-tiny": _digits_tiny(),
    **{f"edm2-img512-{n}": _imagenet(64, 4, row) for n, row in _IMG512.items()},
    **{
        f"edm2-img64-{n}": _imagenet(64, 3, row, p_mean=-0.8, p_std=1.6, lr_decay_iterations=35000)
        for n, row in _IMG64.items()
    },
}


def network_preset(name: str) -> NetworkConfig:
    """The network of a preset."""
    return NetworkConfig.model_validate(_preset(name)["network"])


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset with `overrides` (nested mappings) merged over it, checked and complete.

    Raises UnknownPreset, or InvalidConfig naming each wrong field.
    """
    try:
        return RunConfig.model_validate({**_merge(_preset(preset), overrides or {}), "preset": preset})
    except ValidationError as error:
        raise InvalidConfig(
            [(".".join(map(str, e["loc"])), _sentence(e)) for e in error.errors(include_url=False)]
        ) from error


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownPreset(f"preset {name!r} is unknown; {hint}allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "is not a field of the configuration"
    given = error.get("input")
    return message if isinstance(given, dict) else f"{message}, got {given!r}"
