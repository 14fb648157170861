"""Checks of a dataset that need no reading, so that mistakes are reported before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import isabs
from typing import Literal, Protocol

from phema.shared.datasets.errors import DatasetError
from phema.shared.edm2.networks.config import NetworkConfig


class DatasetChoice(Protocol):
    """The fields that choose a dataset. `phema.shared.recipes.run_config.DatasetConfig` implements it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def held_out(self) -> int: ...

    @property
    def vae(self) -> str | None: ...


@dataclass(frozen=True)
class DatasetInfo:
    """Size and shape of a dataset. `num_pictures` counts the pictures for training and those held out.

    `resolution` and `channels` are those of the network's input: of latents, those of the mean. `num_classes` is 0
    without labels.
    """

    name: str
    num_pictures: int
    resolution: int
    channels: int
    num_classes: int
    encoding: Literal["pictures", "latents"] = "pictures"
    fingerprint: str = ""
    """Equal for equal datasets. A resumed run compares it, so that it cannot go on with other pictures."""

    def check_held_out(self, held_out: int) -> None:
        """Raises DatasetError if no picture would remain to train on."""
        if held_out >= self.num_pictures:
            raise DatasetError(
                f"dataset.held_out is {held_out}, but {self.name} has {self.num_pictures} pictures; hold out fewer"
            )

    def check_vae(self, vae: str | None) -> None:
        """Raises DatasetError if a VAE is given but the dataset has no latents to decode."""
        if vae is not None and self.encoding != "latents":
            raise DatasetError(f"dataset.vae is {vae}, but {self.name} holds pictures, not latents; leave it out")

    def check_network(self, network: NetworkConfig) -> None:
        """Raises DatasetError if `network` cannot take these pictures. An unconditional network ignores labels."""
        needs = (
            ("img_resolution", network.img_resolution, self.resolution),
            ("img_channels", network.img_channels, self.channels),
        )
        for field, given, needed in needs:
            if given != needed:
                raise DatasetError(f"network.{field} is {given}, but the pictures of {self.name} need {needed}")
        if network.label_dim and not self.num_classes:
            raise DatasetError(f"network.label_dim is {network.label_dim}, but {self.name} has no labels; use 0")
        if network.label_dim not in (0, self.num_classes):
            raise DatasetError(
                f"network.label_dim is {network.label_dim}, but {self.name} has {self.num_classes} classes; "
                f"use {self.num_classes}, or 0 for an unconditional network"
            )


DIGITS = DatasetInfo(
    "digits", num_pictures=1797, resolution=8, channels=1, num_classes=10, fingerprint="scikit-learn digits"
)
DATASETS = {info.name: info for info in (DIGITS,)}
"""The built-in datasets, by name. All others are the user's own."""


def check_choice(choice: DatasetChoice) -> None:
    """Raises DatasetError unless the choice names a built-in dataset or a valid path. Reads nothing."""
    if choice.name in DATASETS:
        if choice.path is not None:
            raise DatasetError(
                f"dataset.path is {choice.path}, but {choice.name} is built in; "
                "leave dataset.path out, or give your dataset a dataset.name of its own"
            )
        DATASETS[choice.name].check_held_out(choice.held_out)
        DATASETS[choice.name].check_vae(choice.vae)
        return
    if choice.path is None:
        raise DatasetError(
            f"dataset.name is {choice.name}, which is not built in ({', '.join(DATASETS)} is): "
            "dataset.path must name its folder, zip file or s3:// URL"
        )
    scheme, separator, rest = choice.path.partition("://")
    if (separator and (scheme != "s3" or not rest.strip("/"))) or (not separator and not isabs(choice.path)):
        raise DatasetError(
            f"dataset.path is {choice.path}; it must be an absolute path of a folder or zip file, "
            "or s3://bucket/prefix or s3://bucket/file.zip"
        )


def check_dataset(choice: DatasetChoice, network: NetworkConfig) -> None:
    """Raises DatasetError if `network` cannot be trained on the chosen dataset. Reads nothing.

    Of a user's own dataset only the choice is checked, as its size and shape are not known yet.
    """
    check_choice(choice)
    if choice.name in DATASETS:
        DATASETS[choice.name].check_network(network)
