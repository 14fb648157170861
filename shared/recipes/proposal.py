"""A complete configuration for a dataset of the user: the network and the length of the training follow from the data.

Torch-free, for the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from phema.shared.datasets import DATASETS, DatasetInfo
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.networks.memory import activations_per_picture
from phema.shared.recipes.configuration_letters import IMAGENET, Fields, merge
from phema.shared.recipes.presets import PRESETS
from phema.shared.recipes.run_config import RunConfig

PROPOSED = "proposed"
"""The `preset` of runs whose configuration was proposed."""
HELD_OUT_SHARE = 0.1
MOST_HELD_OUT = 1000
"""Pictures held out by default: a tenth, but enough is enough for the error of a mean."""
_TIMES_SEEN = 512
_SHORTEST, _LONGEST = 2**16, 2**28
"""Images of training. Each picture is seen about 512 times, within these limits."""


class _Size(NamedTuple):
    """What suits a dataset with fewer than `below` training pictures."""

    below: float
    channels: int
    num_blocks: int
    batch_size: int


_SIZES = (
    _Size(2_000, 32, 1, 64),
    _Size(20_000, 64, 2, 128),
    _Size(200_000, 128, 3, 512),
    _Size(float("inf"), 192, 3, 2048),
)
_ACTIVATION_BYTES = 2**33
"""Memory for the activations of the pictures that a worker processes at once, in float32: 8 GiB."""


@dataclass(frozen=True)
class Proposal:
    """Fields of a run's configuration that follow from a dataset."""

    preset: str
    fields: Fields
    """Complete, unless they fit a preset to the dataset: then those that differ from the preset."""
    recipes: Mapping[str, Fields]
    """Hyperparameters of all seven letters, for runs that override `network.config`."""


PROPOSED_BEFORE = Proposal(PROPOSED, IMAGENET["G"], IMAGENET)
"""For a complete configuration that an earlier proposal gave, whose dataset need not be read."""


def held_out_pictures(info: DatasetInfo, share: float | None) -> int:
    """Number of pictures to hold out: this share, or a tenth but at most 1,000. At least 1, unless the share is 0."""
    if share == 0 or info.num_pictures < 2:
        return 0
    if share is None:
        return max(1, min(round(HELD_OUT_SHARE * info.num_pictures), MOST_HELD_OUT))
    return max(1, round(share * info.num_pictures))


def dataset_name(path: str) -> str:
    """The name of the dataset at this path or URL: that of the file or folder, which no built-in dataset has."""
    name = PurePosixPath(path.partition("://")[2] or path).name.removesuffix(".zip")[:90] or "pictures"
    return f"{name}-pictures" if name in DATASETS else name


def fitted(preset: str, info: DatasetInfo, path: str | None, share: float | None) -> Proposal:
    """The preset with the resolution, channels, labels and held-out part of the dataset."""
    chosen = PRESETS[preset]
    label_dim = _label_dim(info) if chosen.network.label_dim else 0
    network = {"img_resolution": info.resolution, "img_channels": info.channels, "label_dim": label_dim}
    fields = {**chosen.fields, "network": {**chosen.fields["network"], **network}}
    fields["dataset"] = _dataset(info, path, share)
    return Proposal(preset, fields, chosen.recipes)


def propose(info: DatasetInfo, path: str | None, share: float | None) -> Proposal:
    """A complete configuration for the dataset at `path` (None: built in). `share` of the pictures is held out."""
    dataset = _dataset(info, path, share)
    count = info.num_pictures - dataset["held_out"]
    size = next(size for size in _SIZES if count < size.below)
    levels = _levels(info.resolution)
    channels = min(size.channels, 64) if info.resolution <= 16 else size.channels
    network = {
        "img_resolution": info.resolution,
        "img_channels": info.channels,
        "label_dim": _label_dim(info),
        "model_channels": channels,
        "channel_mult": [max(1, i - max(0, len(levels) - 4) + 1) for i in range(len(levels))],
        "num_blocks": size.num_blocks,
        "attn_resolutions": [level for level in levels if level <= 16],
        "channels_per_head": min(64, channels),
    }
    built = NetworkConfig.model_validate(network)
    total = _SHORTEST
    while total < min(_TIMES_SEEN * count, _LONGEST):
        total *= 2
    latents = info.encoding == "latents"
    fields: dict[str, Any] = {
        "network": network,
        "dataset": dataset,
        "total_images": total,
        "batch_size": size.batch_size,
        "max_batch_per_worker": _at_once(built, size.batch_size),
        "p_mean": -0.4 if latents else -0.8,
        "p_std": 1.0 if latents else 1.6,
        "lr_decay_iterations": total / size.batch_size / 8,
        "lr_rampup_images": total // 32,
        "snapshot_every": total // 32,
        "checkpoint_every": total // 8,
        "status_every": max(total // 128, size.batch_size),
        "magnitudes_every": total // 32,
    }
    return Proposal(PROPOSED, merge(IMAGENET["G"], fields), IMAGENET)


def explanation(config: RunConfig, info: DatasetInfo | None) -> str:
    """One sentence: the network and the training of a complete configuration, and what they follow from."""
    if info is None:
        return f"network and training are those of preset {config.preset}"
    if config.preset != PROPOSED:
        return f"network and training are those of preset {config.preset}, fitted to {_shape(info)}"
    count = min(info.num_pictures - config.dataset.held_out, config.dataset.max_images or info.num_pictures)
    network = config.network
    return (
        f"{count:,} training pictures, {_shape(info)}: a network of {costs(network).num_parameters:,} parameters suits "
        f"them ({network.model_channels} channels; levels of {_list([level for level, _ in network.levels])} pixels), "
        f"and {config.total_images:,} images of training, which see each picture {config.total_images / count:,.0f} "
        "times"
    )


def _dataset(info: DatasetInfo, path: str | None, share: float | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": info.name, "path": path, "held_out": held_out_pictures(info, share)}
    return fields | ({"labels": "vectors"} if info.vector_size else {})


def _label_dim(info: DatasetInfo) -> int:
    """Size of the labels; 0 for a single class, which all pictures have."""
    return 0 if info.num_classes == 1 else info.label_dim


def _levels(resolution: int) -> list[int]:
    """Resolutions of the network, finest first: down to about 8 pixels, or 4 for small pictures."""
    levels = [resolution]
    while levels[-1] % 2 == 0 and levels[-1] // 2 >= (7 if resolution >= 16 else 4):
        levels.append(levels[-1] // 2)
    return levels


def _at_once(network: NetworkConfig, batch_size: int) -> int | None:
    """Pictures that fit `_ACTIVATION_BYTES`, a power of two; None if the whole batch does."""
    most = _ACTIVATION_BYTES // (4 * activations_per_picture(network))
    return None if most >= batch_size else 1 << max(0, most.bit_length() - 1)


def _shape(info: DatasetInfo) -> str:
    kind = {1: "grey", 3: "RGB"}.get(info.channels, f"{info.channels} channels")
    kind = "latents" if info.encoding == "latents" else kind
    labels = f"label vectors of {info.vector_size} values" if info.vector_size else "no classes"
    labels = f"{info.num_classes} classes" if info.num_classes > 1 else labels
    return f"{info.resolution}x{info.resolution} {kind} with {labels}"


def _list(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
