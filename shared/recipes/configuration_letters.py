"""Hyperparameters of configurations A to G, each defined by its changes to the previous one. Torch-free.

Source: Karras et al. 2024, Figures 16-22. Changes to the network are in `phema.shared.edm2.networks.configurations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]
"""Fields of `RunConfig`, nested in the same way."""


def merge(base: Fields, over: Fields) -> dict[str, Any]:
    """`base` with the fields of `over` replacing its own, recursively."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def _cumulative(**changes: Fields) -> dict[str, Fields]:
    """From the changes of each letter, the values at each letter of all fields that have changed so far."""
    recipes: dict[str, Fields] = {}
    so_far: Fields = {}
    for letter, change in changes.items():
        so_far = merge(merge(so_far, change), {"network": {"config": letter}})
        recipes[letter] = so_far
    return recipes


# Fields of A and B that are the same for all data.
_EDM: Fields = {
    "network": {"dropout": 0.1},
    "lr_decay_iterations": None,
    "adam_beta2": 0.999,
    "p_mean": -1.2,
    "p_std": 1.2,
    "loss_scaling": 100.0,
    "ema_rampup_ratio": 0.05,
}
_IMPROVED_BASELINE: Fields = {
    "adam_beta2": 0.99,
    "p_mean": -0.4,
    "p_std": 1.0,
    "ema_half_life_images": None,
    "ema_rampup_ratio": None,
}

IMAGENET = _cumulative(
    A=merge(
        _EDM,
        {
            "network": {"attn_resolutions": [32, 16, 8]},
            "batch_size": 4096,
            "learning_rate": 1e-4,
            "ema_half_life_images": 50_000_000,
        },
    ),
    B=merge(
        _IMPROVED_BASELINE,
        {"network": {"attn_resolutions": [16, 8]}, "batch_size": 2048, "learning_rate": 2e-4},
    ),
    C={},
    D={"learning_rate": 0.01, "loss_scaling": 1.0},
    E={"lr_decay_iterations": 70_000.0},
    F={},
    G={"network": {"dropout": 0.0}},
)
"""For 192 channels on ImageNet-512 latents. C and F change the network only."""

DIGITS = _cumulative(
    A=merge(
        _EDM,
        {"network": {"attn_resolutions": [8, 4]}, "learning_rate": 1e-3, "ema_half_life_images": 1_792},
    ),
    B=merge(_IMPROVED_BASELINE, {"network": {"attn_resolutions": [4]}}),
    C={},
    D={"learning_rate": 0.01, "loss_scaling": 1.0},
    E={"lr_decay_iterations": 300.0},
    F={},
    G={"network": {"dropout": 0.0}},
)
"""The same, scaled to 1,200 steps of 64 pictures on the digits."""


def switch_configuration(fields: Fields, recipes: Mapping[str, Fields], letter: str) -> Fields:
    """`fields` for another letter: every field in which the recipes of the two letters differ takes the new value.

    Other fields, such as a preset's duration or noise levels, stay. An unknown letter changes nothing.
    """
    own = fields["network"]["config"]
    if letter not in recipes or letter == own:
        return fields
    return merge(fields, _difference(recipes[own], recipes[letter]))


def _difference(old: Fields, new: Fields) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in new.items():
        if isinstance(value, Mapping):
            changed[key] = _difference(old[key], value)
        elif value != old[key]:
            changed[key] = value
    return changed
