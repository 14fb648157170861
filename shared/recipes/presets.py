"""Presets by name, and how a user's overrides turn one into a complete configuration. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.costs import Costs, costs
from phema.shared.recipes.completion import complete
from phema.shared.recipes.configuration_letters import DIGITS, IMAGENET, Fields, merge, switch_configuration
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.validation_errors import InvalidConfig, closest

__all__ = ["PRESETS", "InvalidConfig", "Preset", "Score", "UnknownPreset", "network_preset", "preset_named", "resolve"]

MEBI = 2**20


class UnknownPreset(ValueError):
    """The name is not one of `PRESETS`."""


class Score(NamedTuple):
    """A published Fréchet distance without guidance, and the EMA length at which it was reached."""

    value: float
    sigma_rel: float


@dataclass(frozen=True)
class Preset:
    """A complete configuration with its data and the published results.

    `recipes` holds the hyperparameters of all seven letters on this data, for runs that override `network.config`.
    """

    name: str
    data: str
    fields: Fields
    recipes: Mapping[str, Fields]
    fid: Score | None = None
    fd_dinov2: Score | None = None
    cost: str = ""
    """Measured time of training, in parentheses; empty if unknown."""

    @property
    def config(self) -> RunConfig:
        """The complete configuration of a run without overrides."""
        return resolve(self.name)

    @property
    def network(self) -> NetworkConfig:
        return NetworkConfig.model_validate(self.fields["network"])

    @property
    def costs(self) -> Costs:
        return costs(self.network)

    @property
    def summary(self) -> str:
        """One line: configuration, width, data."""
        network = self.network
        labels = f"{network.label_dim} classes" if network.label_dim else "unconditional"
        return f"Configuration {network.config}, {network.model_channels} channels, on {self.data}, {labels}."

    @property
    def figures(self) -> dict[str, Any]:
        """Size, cost of training and published distances, named as in the API and the command."""
        size = self.costs
        fid, fd_dinov2 = (score or (None, None) for score in (self.fid, self.fd_dinov2))
        return {
            "num_parameters": size.num_parameters,
            "num_parameters_without_uncertainty": size.num_parameters_without_uncertainty,
            "gflops": _rounded(size.gflops),
            "training_zettaflops": _rounded(size.training_zettaflops(self.config.total_images)),
            "fid": fid[0],
            "fid_sigma_rel": fid[1],
            "fd_dinov2": fd_dinov2[0],
            "fd_dinov2_sigma_rel": fd_dinov2[1],
        }

    @property
    def description(self) -> str:
        """Summary, size, expected cost of training, and expected Fréchet distances."""
        size, images = self.costs, self.config.total_images
        return " ".join(
            [
                self.summary,
                f"{size.num_parameters:,} parameters, {size.num_parameters_without_uncertainty:,} without the "
                f"uncertainty head; {size.gflops:.4g} Gflops per evaluation.",
                f"Training sees {images:,} images in {_flops(size.training_zettaflops(images))}{self.cost}.",
                f"Expected FID: {_expected(self.fid)}; FD_DINOv2: {_expected(self.fd_dinov2)}.",
            ]
        )


def _rounded(value: float) -> float:
    """Rounded to five significant digits."""
    return float(f"{value:.5g}")


def _flops(zettaflops: float) -> str:
    """Text with the largest unit, down to teraflops, in which the value is at least 0.1."""
    value, units = zettaflops, ["zettaflops", "exaflops", "petaflops", "teraflops"]
    while value < 0.1 and len(units) > 1:
        value, units = 1000 * value, units[1:]
    return f"{value:.2g} {units[0]}"


def _expected(score: Score | None) -> str:
    return "not published" if score is None else f"{score.value:.2f} at sigma_rel {score.sigma_rel:.3f}"


class _Row(NamedTuple):
    """A column of Table 6. `duration` is in Mi images, `days` on 32 A100 GPUs."""

    channels: int
    alpha_ref: float
    dropout: float
    duration: int
    fid: Score | None = None
    fd_dinov2: Score | None = None
    days: float | None = None


# XXS, and XS at 64 x 64, are guides of the autoguidance paper.
_IMG512 = {
    "xxs": _Row(64, 0.0170, 0.0, 2048),
    "xs": _Row(128, 0.0120, 0.0, 2048, Score(3.53, 0.135), Score(103.39, 0.200), 3.0),
    "s": _Row(192, 0.0100, 0.0, 2048, Score(2.56, 0.130), Score(68.64, 0.190), 5.3),
    "m": _Row(256, 0.0090, 0.1, 2048, Score(2.25, 0.100), Score(58.44, 0.155), 7.8),
    "l": _Row(320, 0.0080, 0.1, 1792, Score(2.06, 0.085), Score(52.25, 0.155), 10.2),
    "xl": _Row(384, 0.0070, 0.1, 1280, Score(1.96, 0.085), Score(45.96, 0.155), 9.7),
    "xxl": _Row(448, 0.0065, 0.1, 896, Score(1.91, 0.070), Score(42.84, 0.150), 9.1),
}
_IMG64 = {
    "xs": _Row(128, 0.0120, 0.0, 1024),
    "s": _Row(192, 0.0100, 0.0, 1024, Score(1.58, 0.075), Score(58.52, 0.160)),
    "m": _Row(256, 0.0090, 0.1, 2048, Score(1.43, 0.060)),
    "l": _Row(320, 0.0080, 0.1, 1024, Score(1.33, 0.040)),
    "xl": _Row(384, 0.0070, 0.1, 640, Score(1.33, 0.040)),
}
_UNCONDITIONAL = {"edm2-img512-s": (Score(11.67, 0.145), Score(209.53, 0.170))}  # the autoguidance paper's
# Figures 16-21. A's average is the traditional one; 0.034 is the relative width of its half-life.
_LETTERS = {
    "A": Score(8.00, 0.034),
    "B": Score(7.24, 0.090),
    "C": Score(6.96, 0.075),
    "D": Score(3.75, 0.225),
    "E": Score(3.02, 0.145),
    "F": Score(2.71, 0.100),
}


def _imagenet(resolution: int, data: str, dataset: str, row: _Row, **fields: Any) -> dict[str, Any]:
    """Configuration G at the width of `row`, with a batch per worker that fits one GPU, in half precision on GPUs."""
    network = {
        "img_resolution": resolution,
        "img_channels": 4 if "latents" in data else 3,
        "label_dim": 1000,
        "model_channels": row.channels,
        "dropout": row.dropout,
    }
    own: Fields = {
        "network": network,
        "dataset": {"name": dataset, "held_out": 0},
        "total_images": row.duration * MEBI,
        "max_batch_per_worker": 64 if row.channels <= 256 else 32,
        "learning_rate": row.alpha_ref,
        "device": "cuda",
        "precision": "float16",
        **fields,
    }
    return merge(IMAGENET["G"], own)


def _conditional_or_not(preset: Preset) -> Iterator[Preset]:
    yield preset
    fid, fd_dinov2 = _UNCONDITIONAL.get(preset.name, (None, None))
    fields = merge(preset.fields, {"network": {"label_dim": 0}})
    yield Preset(f"{preset.name}-uncond", preset.data, fields, preset.recipes, fid, fd_dinov2)


def _img512() -> Iterator[Preset]:
    data = "ImageNet-512 latents"
    for size, row in _IMG512.items():
        cost = "" if row.days is None else f" ({row.days} days on 32 A100 GPUs in the paper)"
        fields = _imagenet(64, data, "imagenet-512-latents", row)
        preset = Preset(f"edm2-img512-{size}", data, fields, IMAGENET, row.fid, row.fd_dinov2, cost)
        yield from _conditional_or_not(preset)
    for letter, fid in _LETTERS.items():
        g = _imagenet(64, data, "imagenet-512-latents", _IMG512["s"])
        yield Preset(f"edm2-img512-{letter.lower()}", data, switch_configuration(g, IMAGENET, letter), IMAGENET, fid)


def _img64() -> Iterator[Preset]:
    data = "ImageNet-64 pictures"
    for size, row in _IMG64.items():
        fields = _imagenet(64, data, "imagenet-64", row, p_mean=-0.8, p_std=1.6, lr_decay_iterations=35_000.0)
        preset = Preset(f"edm2-img64-{size}", data, fields, IMAGENET, row.fid, row.fd_dinov2)
        yield from _conditional_or_not(preset)


def _digits() -> Iterator[Preset]:
    """Presets that train on two CPU cores in about two minutes: 1,200 steps of 64 pictures."""
    data, cost = "the 8 x 8 digits", " (about two minutes on two CPU cores)"
    network = {
        "img_resolution": 8,
        "img_channels": 1,
        "label_dim": 10,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "channels_per_head": 16,
    }
    own: Fields = {
        "network": network,
        "total_images": 76_800,
        "batch_size": 64,
        "lr_rampup_images": 3_200,
        "snapshot_every": 3_200,
        "snapshot_dtype": "float32",
        "checkpoint_every": 12_800,
        "status_every": 1_280,
        "magnitudes_every": 3_840,
    }
    fields: Fields = merge(DIGITS["G"], own)
    yield Preset("digits-tiny", data, fields, DIGITS, cost=cost)
    for letter in _LETTERS:
        yield Preset(f"digits-{letter.lower()}", data, switch_configuration(fields, DIGITS, letter), DIGITS, cost=cost)


PRESETS: dict[str, Preset] = {preset.name: preset for family in (_digits, _img512, _img64) for preset in family()}


def network_preset(name: str) -> NetworkConfig:
    """The network of a preset. Raises UnknownPreset."""
    return preset_named(name).network


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A complete, validated configuration: the preset with `overrides` (nested mappings) merged over it.

    Overriding `network.config` also switches to that letter's hyperparameters: every field in which the recipes of the
    two letters differ takes the new letter's value, unless it is overridden too.

    Raises UnknownPreset, or InvalidConfig that names each wrong field.
    """
    chosen = preset_named(preset)
    return complete(preset, chosen.fields, chosen.recipes, overrides or {})


def preset_named(name: str) -> Preset:
    """The preset of this name. Raises UnknownPreset."""
    if name not in PRESETS:
        raise UnknownPreset(f"preset {name!r} is unknown; {closest(name, list(PRESETS))}allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
